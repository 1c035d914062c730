"""Model folders from the hub: one request to it, then only local files.

What is read from such a folder, and how it is checked, is in `configuration` and `weights`.
"""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from olivine.errors import RequestError

#: Seconds to wait for any answer from the hub.
TIMEOUT = 10.0

CONFIGURATION = ("config.json", "preprocessor_config.json", "processor_config.json", "olivine.json")
TOKENIZER = (
    *CONFIGURATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)
#: Weights in other layouts (`original/`, `onnx/`) are in folders or have other names, and are not fetched.
WEIGHTS = (*CONFIGURATION, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")


@dataclass(frozen=True, slots=True)
class _Listing:
    """The files of a repository at one commit."""

    commit: str
    files: tuple[str, ...]


#: Per process: repositories that answered, so that all files of a model come from one commit; and hubs that did not,
#: with the reason, so that each is tried once.
_listings: dict[str, _Listing] = {}
_unreachable: dict[str, str] = {}


def local_folder(source: str, key: str, files: tuple[str, ...]) -> Path:
    """Return the folder of `source`: itself if it is one, otherwise the hub's files of that id, fetched if needed.

    A hub that cannot be reached is tried once per process, without retries; then files fetched earlier are used if they
    exist.

    Args:
        source: a folder, or an id such as `google/gemma-2b-it`.
        key: its name in messages.
        files: names to fetch; `*` matches anything but a folder separator.

    Raises:
        RequestError: neither a folder nor on the hub, or the hub cannot be reached and nothing was fetched earlier.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise RequestError(f"{key}: {source!r} is a file. Give the folder with config.json, weights and tokenizer.")
    if source.startswith((".", "/", "~")):
        raise RequestError(f"{key}: folder {source!r} not found.")
    listing = _ask(source, key)
    if listing is None:
        return _fetched_earlier(source, key, files)
    names = [name for name in listing.files if "/" not in name and any(fnmatch(name, pattern) for pattern in files)]
    try:
        return Path(snapshot_download(source, revision=listing.commit, allow_patterns=names, etag_timeout=TIMEOUT))
    except GatedRepoError:
        raise _gated(source, key) from None
    except Exception as error:  # whatever the HTTP client raises, which depends on the hub library's version
        raise RequestError(
            f"{key}: {source!r} could not be fetched from the hub ({_reason(error)}). Run the same command again, or "
            + _by_hand(source, files)
        ) from None


def _ask(source: str, key: str) -> _Listing | None:
    """Return the hub's listing of an id; None if the hub cannot be reached."""
    if source in _listings:
        return _listings[source]
    if constants.ENDPOINT in _unreachable:
        return None
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(source, timeout=TIMEOUT)
    except GatedRepoError:
        raise _gated(source, key) from None
    except RepositoryNotFoundError:
        raise RequestError(
            f"{key}: {source!r} is not a local folder, and the hub has no model of that name (or it is private: "
            "`hf auth login`). Check the name."
        ) from None
    except HFValidationError:
        raise RequestError(
            f"{key}: {source!r} is neither a local folder nor a hub id (`owner/name`). Check the path."
        ) from None
    except OfflineModeIsEnabled:
        _unreachable[constants.ENDPOINT] = "HF_HUB_OFFLINE is set"
        return None
    except Exception as error:  # as above
        _unreachable[constants.ENDPOINT] = _reason(error)
        return None
    assert info.sha is not None, "the hub's reply has the commit"
    listing = _Listing(info.sha, tuple(sibling.rfilename for sibling in info.siblings or ()))
    _listings[source] = listing
    return listing


def _fetched_earlier(source: str, key: str, files: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(source, allow_patterns=list(files), local_files_only=True))
    except Exception:  # as above
        reason = _unreachable[constants.ENDPOINT]
        raise RequestError(
            f"{key}: {source!r} is not a local folder, could not be fetched from the hub ({constants.ENDPOINT}: "
            f"{reason}; tried once) and was not fetched earlier. Check the name and the network, or "
            + _by_hand(source, files)
        ) from None


def _gated(source: str, key: str) -> RequestError:
    return RequestError(
        f"{key}: {source!r} is gated. Accept its terms on its page ({constants.ENDPOINT}/{source}) and log in "
        "(`hf auth login`), or give the path of a downloaded folder."
    )


def _by_hand(source: str, files: tuple[str, ...]) -> str:
    whole = (
        f"download it on a machine with network access (`hf download {source} --local-dir DIR`) and give the path of "
        "that folder."
    )
    if files != CONFIGURATION:
        return whole
    # Nothing but configurations is fetched for an estimate, and they are fetched first for everything else.
    return whole + f" `olivine plan` needs config.json alone: `hf download {source} config.json --local-dir DIR`."


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
