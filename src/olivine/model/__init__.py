"""The only package that uses `transformers` models: building, running, saving and loading them.

Everything goes through public interfaces; no model class is patched and no `forward` is overridden.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars for reading and writing local files; downloads keep theirs."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' table of missing weights while the load report itself is checked."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)
