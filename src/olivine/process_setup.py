"""The settings of Olivine's own processes (the command line, its workers), made as they start.

Never called on import or by the Python interface: warning filters belong to the whole process, and a program that uses
Olivine as a library decides on them.
"""

import warnings


def ignore_known_warnings() -> None:
    """Ignore what libraries warn of and Olivine deals with.

    Pillow's words about images, which are opened in threads, out of reach of a narrower filter: what is wrong with an
    image is said by `data.image_files`. And torch's, that a checkpoint of a single process is one of a single process.
    """
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit", RuntimeWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
