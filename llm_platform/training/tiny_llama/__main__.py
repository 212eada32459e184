"""`python -m llm_platform.training.tiny_llama` builds the model and says where it lies."""

import argparse
import os
from pathlib import Path

import platformdirs
from tqdm import tqdm

from llm_platform.training.tiny_llama import MODEL_NAME, ensure


class Bar:
    """A progress bar for each part of the build."""

    def __init__(self) -> None:
        self.what = ""
        self.bar: tqdm | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what or self.bar is None:
            self.close()
            self.what, self.bar = what, tqdm(total=total, desc=what)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def main() -> None:
    """Parse the command line, build, and print the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_platform.training.tiny_llama",
        description=f"Build {MODEL_NAME}, the base model of the demo, unless it is built already.",
    )
    default = Path(platformdirs.user_cache_dir("llm-platform"))
    parser.add_argument("--cache", type=Path, default=default, help="the folder to build in (default: %(default)s)")
    cache: Path = parser.parse_args().cache
    # Before torch is loaded: threads that wait then sleep. Spinning, they cost five times the CPU on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    bar = Bar()
    try:
        folder = ensure(cache.expanduser(), bar)
    finally:
        bar.close()
    print(f"{MODEL_NAME} lies in {folder}")


if __name__ == "__main__":
    main()
