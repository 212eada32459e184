"""Compiled layers train as others do, and where nothing can be compiled the config is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_platform.errors import InvalidConfig
from tests.training.runs import config, loop


def test_without_a_compiler_it_is_refused(base: Path, splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InvalidConfig, match=r"compile: compiling needs a C\+\+ compiler .* set compile to false") as error:
        loop(config("lora", compile=True), base, splits)
    assert error.value.metadata["errors"][0]["field"] == "compile"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while it compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the same
def test_compiled_layers_take_the_same_steps(base: Path, splits: Path) -> None:
    options: dict[str, Any] = {"lora_dropout": 0.0, "max_steps": 3}
    plain, compiled = (loop(config("lora", **options, compile=compile), base, splits) for compile in (False, True))
    for made in (plain, compiled):
        made.run(lambda _: None)
    one, two = ([value for _, value in made.progress.curve.points] for made in (plain, compiled))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert two != one, "compiled kernels round differently; the same bits would say that nothing was compiled"
    np.testing.assert_allclose(compiled.progress.validation, plain.progress.validation, rtol=1e-4)
