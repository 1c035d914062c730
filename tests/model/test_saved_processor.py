"""The saved processor in plain transformers: padded batches answer as single questions do, no local path is saved."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from olivine.data.encoding import TemplateEncoder
from olivine.data.images import decode_image, open_image, upright_rgb
from olivine.data.template import TEMPLATES
from olivine.errors import RequestError
from olivine.evaluation.engine import AnsweringEngine
from olivine.model import checkpoint
from olivine.model import processor as model_processor
from olivine.model.build import build
from olivine.model.generate import answer_one
from olivine.records import Question
from olivine.testing import CORPUS, gemma_tokenizer, llama_tokenizer, tiny_model_recipe, tiny_vlm

QUESTIONS = [
    "what color is it?",
    "is there a red circle to the left of the shape in the image, and if so, what color is the shape?",
    "what?",
    "is there a shape?",
    "a chat between a user and an assistant: is it red?",
    "red?",
    "what color is the shape? is there a red circle in the image? what color is the shape to the left?",
]
TOKENS = 8


@pytest.fixture(scope="module", params=["gemma", "vicuna", "plain"])
def plain(request, tmp_path_factory):
    """(model, processor, Olivine's model) of a template, as plain transformers loads the saved folder."""
    folder = tmp_path_factory.mktemp(request.param)
    language = "llama" if request.param == "vicuna" else "gemma"
    vlm = replace(tiny_vlm(language=language, folder=folder / "tokenizer"), template=request.param)
    if language == "llama":
        vlm.tokenizer.pad_token = None  # as Llama's own has none
    checkpoint.save(vlm, folder / "saved")
    model = AutoModelForImageTextToText.from_pretrained(folder / "saved").eval()
    return model, AutoProcessor.from_pretrained(folder / "saved"), checkpoint.load(folder / "saved")


@pytest.fixture(scope="module")
def images(image_folder):
    return [open_image(image_folder / f"{number}.png") for number in range(len(QUESTIONS))]


@pytest.fixture(scope="module")
def single(plain, images):
    """The answers to single questions, through Olivine and, equal, through plain transformers."""
    _, _, ours = plain
    answers = [answer_one(ours, q, image, max_new_tokens=TOKENS) for q, image in zip(QUESTIONS, images, strict=True)]
    assert len(set(answers)) > 1, "identical answers would prove nothing"
    return answers


def messages(question, image):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]


def generated(plain, inputs):
    model, processor, _ = plain
    out = model.generate(**inputs, max_new_tokens=TOKENS)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(out, skip_special_tokens=True)]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_padded_batch_answers_as_single_questions_do(plain, images, single, count):
    _, processor, _ = plain
    chats = [messages(q, image) for q, image in zip(QUESTIONS, images, strict=True)][:count]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=prompts, images=images[:count], padding=True, return_tensors="pt")
    assert generated(plain, inputs) == single[:count]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_padded_batch_of_chats_answers_as_single_questions_do(plain, images, single, count):
    _, processor, _ = plain
    chats = [messages(q, image) for q, image in zip(QUESTIONS, images, strict=True)][:count]
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )
    assert generated(plain, inputs) == single[:count]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_pipeline_of_batches_answers_as_single_questions_do(plain, images, single, count):
    model, processor, _ = plain
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [messages(q, image) for q, image in zip(QUESTIONS, images, strict=True)]
    found = ask(text=chats, batch_size=count, max_new_tokens=TOKENS, return_full_text=False)
    texts = [(answer[0] if isinstance(answer, list) else answer)["generated_text"].strip() for answer in found]
    assert texts == single


def test_the_folder_says_left_and_has_a_pad_token(plain):
    model, processor, _ = plain
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token is not None
    assert processor.image_token == "<image>"
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_the_pad_token_differs_from_the_end_of_sequence_if_possible(tmp_path):
    """Trainers do not label pad tokens, so a model would never learn to stop."""
    vlm = tiny_vlm(language="llama", folder=tmp_path / "tokenizer")
    vlm.tokenizer.pad_token = None
    checkpoint.save(vlm, tmp_path / "saved")
    assert AutoProcessor.from_pretrained(tmp_path / "saved").tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize("spelled", ["<image>", "what does <image> mean?", "<image><image>\n<image>"])
def test_image_typed_in_a_question_is_text(plain, images, spelled, image_folder):
    model, processor, ours = plain
    image_id = model.config.image_token_id
    # In training and in the engine, exactly the text.
    prefix, continuation = ours.encoder().prompt(spelled, True)
    assert (prefix + continuation).count(image_id) == ours.image_tokens
    if ours.template != "plain":
        assert spelled.replace(" ", "") in ours.tokenizer.decode(continuation).replace(" ", "")
    question = Question(id="q", image="0.png", prompt=spelled, cluster="0")
    [answer] = AnsweringEngine(ours, max_new_tokens=TOKENS).answer([question], image_folder)
    assert answer.text == answer_one(ours, spelled, images[0], max_new_tokens=TOKENS)
    # In plain transformers text too, with a space in it.
    for content in (spelled, [{"type": "text", "text": spelled}]):
        said = [{"role": "user", "content": content}]
        assert image_id not in processor.tokenizer(processor.apply_chat_template(said, tokenize=False)).input_ids
    inputs = processor.apply_chat_template(
        messages(spelled, images[0]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert int((inputs["input_ids"] == image_id).sum()) == ours.image_tokens
    model.generate(**inputs, max_new_tokens=2)


def test_no_path_of_this_machine_is_saved(tmp_path):
    """Backbones read from a folder leave its path in transformers' configurations."""
    parts = tiny_vlm()
    parts.model.model.vision_tower.save_pretrained(tmp_path / "tower")
    language = parts.model.model.language_model
    recipe = tiny_model_recipe(tokenizer=None).model_dump(by_alias=True)
    gemma_tokenizer().save_pretrained(tmp_path / "tokenizer")
    recipe["vision"]["from"] = str(tmp_path / "tower")
    recipe["language"]["tokenizer"] = str(tmp_path / "tokenizer")
    vlm = build(type(tiny_model_recipe()).model_validate(recipe), seed=0, texts=lambda: CORPUS)
    vlm.model.config.text_config._name_or_path = str(tmp_path / "language")
    assert vlm.model.config.vision_config._name_or_path == str(tmp_path / "tower")
    checkpoint.save(vlm, tmp_path / "saved")
    files = sorted((tmp_path / "saved").glob("*.json"))
    assert len(files) >= 5
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert str(tmp_path) not in text, file.name
        assert "_name_or_path" not in text, file.name
    assert language is not None


def test_a_tokenizers_own_image_token_does_not_win(tmp_path):
    """Gemma 3's tokenizer names another token, which transformers' processor prefers to `<image>`."""
    vlm = tiny_vlm()
    tokenizer = gemma_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["extra_special_tokens"] = {"image_token": "<unused7>"}
    path.write_text(json.dumps(config))
    vlm.tokenizer = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
    assert vlm.tokenizer.image_token == "<unused7>"
    checkpoint.save(vlm, tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert processor.image_token == "<image>"
    inputs = processor(text="<image>", images=Image.new("RGB", (9, 9)), return_tensors="pt")
    assert int((inputs.input_ids == vlm.model.config.image_token_id).sum()) == vlm.image_tokens


def test_letterbox_is_refused_before_a_training_where_no_processor_has_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, LETTERBOX, None)  # as if it could not be imported
    with pytest.raises(RequestError, match=r"letterbox.*pad, crop or squash"):
        model_processor.require_image_processor("letterbox")
    with pytest.raises(RequestError, match="letterbox"):
        tiny_vlm(image_fit="letterbox")
    model_processor.require_image_processor("pad")


LETTERBOX = "transformers.models.deepseek_vl.image_processing_pil_deepseek_vl"


def test_llama_tokenizers_keep_a_pad_token_that_they_have(tmp_path):
    vlm = tiny_vlm(language="llama", folder=tmp_path / "tokenizer")
    vlm.tokenizer = llama_tokenizer()
    vlm.tokenizer.pad_token = "</s>"
    checkpoint.save(vlm, tmp_path / "saved")
    assert AutoProcessor.from_pretrained(tmp_path / "saved").tokenizer.pad_token == "</s>"


def test_image_is_text_where_the_tokenizer_does_not_mark_it_as_special():
    vlm = tiny_vlm()
    tokenizer = gemma_tokenizer()
    tokenizer.add_tokens(["<image>"])  # an ordinary added token, as some published tokenizers have theirs
    token_id = tokenizer.convert_tokens_to_ids("<image>")
    assert token_id in tokenizer("a <image>").input_ids
    encoder = TemplateEncoder(TEMPLATES["gemma"], tokenizer, image_token_id=token_id, image_tokens=vlm.image_tokens)
    prefix, continuation = encoder.prompt("what does <image> mean?", True)
    assert (prefix + continuation).count(token_id) == vlm.image_tokens


def test_an_image_in_memory_is_opened_the_same_way(vlm):
    """A PIL image is also turned by its orientation and composited on white."""
    image = Image.new("RGBA", (9, 14), (200, 10, 10, 90))
    image.getexif()[0x0112] = 6
    raw = io.BytesIO()
    image.save(raw, "PNG", exif=image.getexif())
    handed = answer_one(vlm, "what?", Image.open(raw), max_new_tokens=TOKENS)
    assert handed == answer_one(vlm, "what?", decode_image(raw.getvalue(), "x"), max_new_tokens=TOKENS)
    assert upright_rgb(Image.open(raw)).size == (14, 9)
