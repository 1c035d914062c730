"""One stage: one loop over batches, for any trained modules and any objective.

Which stages there are, and what happens between them, is in `run`.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from olivine.data.batches import Batch, BatchMaker, SampleOrder, Share, ahead
from olivine.data.features import FeatureTable
from olivine.data.image_record import ImageRecord
from olivine.data.packing import SequenceLayout
from olivine.distributed import Processes
from olivine.errors import RequestError, RunError, Stopped
from olivine.files import write_json
from olivine.model.attention import choose_attention, compile_layers
from olivine.model.connectors.llava import connector_recipe
from olivine.model.vlm import VisionLanguageModel
from olivine.random_state import RandomState
from olivine.recipe import DataRecipe, Recipe, StageRecipe
from olivine.records import Sample
from olivine.stop import StopSignal
from olivine.training import lora, tower_lora
from olivine.training.held_out import HeldOut, split_held_out
from olivine.training.log import MetricsLog, StageSummary, print_summary, progress_bar
from olivine.training.loss_spikes import WINDOW, LossSpikeDetector
from olivine.training.objectives import ContrastiveObjective, LanguageObjective, Objective
from olivine.training.optimizer import learning_rate, make_optimizer, set_learning_rates
from olivine.training.sharding import average_whole_gradients, clip_gradients
from olivine.training.trainable import choose_trainable, move_to_device, peak_rates, set_precision
from olivine.training.training_checkpoints import TrainingCheckpoints, TrainingState
from olivine.training.working_weights import WorkingWeights, keeps_working_weights

T = TypeVar("T")
BAD_BATCH = "bad_batch.json"


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a finished stage reports, over all its runs: see `log.StageSummary` for all but the held-out loss."""

    steps: int
    summary: StageSummary
    held_out_loss: float | None


class Stage:
    """A stage ready to run.

    Args:
        vlm: the model, changed in place.
        recipe: the whole recipe.
        stage: which of its stages.
        samples: all samples of the stage's data source; the held-out split is made here.
        folder: where metrics, sampled answers and training checkpoints go.
        console: where messages go.
        processes: this process among those of the run.
        stop: checked after every step; None never stops.
        features: cached features of all images, from the unchanged tower, which the stage must not train.
        record: the images that the run has opened; None compares none.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        recipe: Recipe,
        stage: StageRecipe,
        samples: Sequence[Sample],
        folder: Path,
        console: Console,
        processes: Processes = Processes(),  # noqa: B008  # immutable
        stop: StopSignal | None = None,
        features: FeatureTable | None = None,
        record: ImageRecord | None = None,
    ) -> None:
        self._features, self._record = features, record
        self.vlm, self.recipe, self.stage, self.folder, self.console = vlm, recipe, stage, folder, console
        self.processes = processes
        self._stop = stop
        source = recipe.data[stage.data]
        products = torch.bfloat16 if recipe.optimizer.precision == "bf16" else torch.float32
        self.attention = choose_attention(vlm.language.config, processes.device, products)
        training, held_out = split_held_out(samples, stage.held_out, recipe.seed, stage.data)
        held_out_batches = self._make_batches(held_out, source, weighted=False)
        self._held_out = HeldOut(vlm, held_out_batches, len(held_out), source.on_error)
        self._batches = self._make_batches(training, source)
        self.order = SampleOrder(
            len(training), batch=stage.batch, epochs=stage.epochs, steps=stage.steps, seed=recipe.seed, key=stage.name
        )
        self._training_count = len(training)

        set_precision(vlm, stage, recipe)
        self._random = RandomState(recipe.seed, processes.device)
        if stage.lora:
            if processes.several:
                raise RequestError(
                    f"stages.{stage.name}.lora: one process only; under torchrun the model itself is sharded."
                )
            with self._random.active():
                lora.insert(vlm.language, stage.lora, processes.device)
        if stage.vision_lora:
            with self._random.active():
                tower_lora.insert(vlm.tower, stage.vision_lora, f"stages.{stage.name}.vision_lora")
        move_to_device(vlm, processes)
        connector = recipe.model.connector_ or connector_recipe(vlm.model.config, vlm.connector)
        self.weights = choose_trainable(vlm, stage, connector)
        with self._random.active():
            self.objective = self._make_objective()
        named = dict(vlm.model.named_parameters())
        self.weights = {name: named[name] for name in self.weights}  # those of a sharded model are new objects
        own = {f"objective.{name}": parameter for name, parameter in self.objective.named_parameters()}
        self._trained = [*self.weights.values(), *own.values()]
        self._working: WorkingWeights | None = None
        self.optimizer = make_optimizer(self._trained, recipe.optimizer, peak_rates(stage, vlm, self.weights, own))
        self.state = TrainingState({**self.weights, **own}, self.optimizer)
        self.checkpoints = TrainingCheckpoints(
            folder,
            keep=stage.keep,
            processes=processes,
            background=processes.several or processes.device.type == "cuda",
        )

    def run(self) -> StageResult:
        """Train to the end of the stage, from the last training checkpoint if there is one.

        Raises:
            RunError: a batch without labels, or a loss that is not finite or is a spike (the batch's samples are
                recorded).
            DataError: a broken sample under `on_error: stop`.
            Stopped: a stop was requested; the state is saved.
        """
        with self._random.active():
            return self._run()

    def _run(self) -> StageResult:
        first = self.checkpoints.load(self.state)
        log = MetricsLog(self.folder, first, writes=self.processes.is_first)
        before = self.processes.from_first(log.losses(WINDOW) if self.processes.is_first else [])
        self._watch = LossSpikeDetector(self.recipe.optimizer.spike, before)
        print_summary(
            self.console,
            self.vlm,
            self.stage,
            steps=self.order.steps,
            samples=self._training_count,
            first_step=first,
        )
        if self._held_out.count:
            fewer = self._held_out.count < self.stage.held_out
            limit = f" (held_out: {self.stage.held_out:,}, but at most a tenth)" if fewer else ""
            self.console.print(f"held out and not trained on: {self._held_out.count:,} samples{limit}", highlight=False)
        if self.stage.objective == "language":
            self.console.print(str(self.attention), markup=False, highlight=False)
            if keeps_working_weights(self.recipe.optimizer.precision, self.processes):
                self._working = WorkingWeights(self.vlm.model, self._trained)
        self._steps(first, log)
        summary = self.processes.from_first(log.summary() if self.processes.is_first else StageSummary(None, 0.0, ""))
        if summary.loss is None:
            raise RunError(
                f"stage {self.stage.name}: every sample was skipped ({summary.skipped}), so nothing was trained. "
                f"Run: olivine data check {self.recipe.data[self.stage.data].json_}"
            )
        self.checkpoints.finish()
        held_out = self.held_out_loss()
        if held_out is not None:
            log.metrics(self.order.steps, {"held_out_loss": held_out})
        self.vlm.model.eval()
        return StageResult(self.order.steps, summary, held_out)

    def release(self) -> None:
        """Release gradients, working copies and the optimizer's state, once training is over."""
        if self._working is not None:
            self._working.remove()
            self._working = None
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()

    def _steps(self, first: int, log: MetricsLog) -> None:
        """Run all steps from `first` on."""
        self._set_modes()
        with progress_bar(self.console) as bar:
            task = bar.add_task(
                self.stage.name, total=self.order.steps, completed=first, loss="–", batch=self.stage.batch
            )
            for (step, batch), waited in _timed(ahead(self._batches, self.order, first)):
                taken = self._step(step, batch, waited, log)
                if taken is not None:
                    bar.update(task, completed=step + 1, loss=f"{taken:.3f}")
                done = step + 1
                if self._stop_requested():
                    self.checkpoints.save(done, self.state)
                    self.checkpoints.finish()
                    assert self._stop is not None, "only a signal requests a stop"
                    raise Stopped(self._stop.message(f"stage {self.stage.name} is saved at step {done:,}"))
                if taken is not None:
                    self._validate(done, log)
                if self.stage.save_every and done % self.stage.save_every == 0 and done < self.order.steps:
                    self.checkpoints.save(done, self.state)

    def _stop_requested(self) -> bool:
        """Return whether any process was: torchrun's signal does not reach all of them in the same step."""
        return bool(self.processes.total([float(self._stop is not None and self._stop.requested)])[0])

    def _step(self, step: int, batch: Batch, waited: float, log: MetricsLog) -> float | None:
        """Run one optimiser step and return its loss, or None if every sample was broken and skipped by policy."""
        began = time.monotonic()
        samples, tokens, skipped = (
            int(n) for n in self.processes.total([batch.samples, batch.tokens, len(batch.skipped)])
        )
        reasons = dict(self.processes.union(list(batch.skipped.items()))) if skipped else {}
        if not samples and skipped:
            log.audit(step, [], reasons)
            return None
        set_learning_rates(self.optimizer, self.recipe.optimizer, step, self.order.steps)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            measured = self.objective.measure(batch, backward=True)
        if not measured.count:
            raise RunError(
                f"stage {self.stage.name}, step {step}: no token of the batch is supervised, so there is nothing to "
                f"train on. Run: olivine data check {self.recipe.data[self.stage.data].json_}"
            )
        loss = measured.mean
        average_whole_gradients(self._trained, self.processes)
        norm = clip_gradients(self._trained, self.recipe.optimizer.clip or math.inf)
        problem = self._watch.problem(loss, norm)
        if problem is not None:
            self._stop_at(step, batch, problem, loss, norm)
        self.optimizer.step()
        if self._working is not None:
            self._working.refresh()
        log.metrics(
            step,
            {
                "loss": loss,
                **self._learning_rates(step),
                "grad_norm": norm,
                "labels": measured.count,
                "tokens": tokens,
                "samples": samples,
                "seconds": round(time.monotonic() - began, 4),
                "waited": round(waited, 4),
            },
        )
        log.audit(step, [name for name in batch.sample_ids if name not in reasons], reasons)
        return loss

    def _learning_rates(self, step: int) -> dict[str, float]:
        """Return the rate of a step as metrics have it: `lr`, or `lr.MODULE` of each where each has its own."""
        lr = self.stage.lr
        peaks = {f"lr.{module}": peak for module, peak in lr.items()} if isinstance(lr, dict) else {"lr": lr}
        schedule = self.recipe.optimizer
        return {name: learning_rate(schedule, peak, step, self.order.steps) for name, peak in peaks.items()}

    def _stop_at(self, step: int, batch: Batch, problem: str, loss: float, norm: float) -> None:
        path = self.folder / BAD_BATCH
        if self.processes.is_first:
            named = {"step": step, "loss": str(loss), "grad_norm": str(norm), "samples": list(batch.sample_ids)}
            write_json(path, named)
        raise RunError(
            f"stage {self.stage.name}, step {step}: {problem}; the weights are unchanged. Its samples are in "
            f"{path}. Try a lower learning rate, precision: fp32, or a higher optimizer.spike if that stopped it."
        )

    def _validate(self, step: int, log: MetricsLog) -> None:
        """Log the held-out loss and two sampled answers, every `validate_every` steps."""
        if not (self.stage.validate_every and self._held_out.count) or step % self.stage.validate_every:
            return
        held_out = self.held_out_loss()
        if held_out is None:
            return  # all their images are broken, which the source's policy counts
        log.metrics(step - 1, {"held_out_loss": held_out})
        line = f"{self.stage.name} step {step}: held-out loss {held_out:.4f}"
        # Generating token by token would gather every layer of a sharded model once per token.
        if self.stage.objective == "language" and not self.processes.several:
            with self._autocast():
                sampled = list(self._held_out.answers(2))
            for one in sampled:
                log.sample(step - 1, one)
                line += f"\n  {one['question']!r} -> {one['answer']!r} (true: {one['truth']!r})"
        self.console.print(line, markup=False, highlight=False)
        self._set_modes()

    def held_out_loss(self) -> float | None:
        """Return the mean loss over the labelled tokens of the held-out samples, None if there are none."""
        with self._autocast():
            return self._held_out.loss(self.objective, self.stage.batch)

    def _make_objective(self) -> Objective:
        if self.stage.objective == "contrastive":
            return ContrastiveObjective(self.vlm).to(self.vlm.device)
        if self.recipe.optimizer.compile:
            compile_layers(self.vlm.layers, varlen=self.attention.varlen)
        layout = self._layout(self.recipe.data[self.stage.data])
        objective = LanguageObjective(self.vlm, self.processes, layout)
        if self.processes.several:
            objective.shard(self.recipe.sharding, bf16=self.recipe.optimizer.precision == "bf16")
        return objective

    def _make_batches(self, samples: Sequence[Sample], source: DataRecipe, *, weighted: bool = True) -> BatchMaker:
        encoder = self.vlm.encoder(self.stage.template)
        transform = self.vlm.transform.with_fit(self.stage.image_fit)
        # Images are each other's negatives in a contrastive stage: there every process takes the whole batch.
        layout = self._layout(source)
        alone = self.stage.objective == "contrastive"
        share = Share() if alone else Share(self.processes.rank, self.processes.world_size)
        return BatchMaker(
            samples,
            source,
            encoder,
            transform,
            sequence_tokens=self.stage.sequence_tokens,
            share=share,
            readers=self.processes.readers,
            features=self._features,
            layout=layout if weighted else replace(layout, loss_weights=None),
            pinned=self.processes.device.type == "cuda",
            record=self._record.of(self.stage.data) if self._record is not None else None,
        )

    def _layout(self, source: DataRecipe) -> SequenceLayout:
        return SequenceLayout(
            image_token=self.vlm.model.config.image_token_id,
            varlen=self.attention.by_spans,
            continuations=source.turns == "independent",
            loss_weights=self.stage.loss_weights,
        )

    def _set_modes(self) -> None:
        """Put what trains into training mode; frozen modules stay in evaluation mode, so that they apply no dropout."""
        self.vlm.model.eval()
        modules = {"vision": self.vlm.tower, "connector": self.vlm.connector, "language": self.vlm.language}
        for name in self.stage.train:
            modules[name].train()
        self.objective.train()
        if self.recipe.optimizer.checkpoint_activations:
            self.vlm.checkpoint_activations(self.stage.train)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self.recipe.optimizer.precision == "bf16")


def _timed(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Yield each item with the seconds spent waiting for it."""
    while True:
        began = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.monotonic() - began
