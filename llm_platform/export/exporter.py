"""One trained model in every format, each tried by the gate: `Exporter(...).make("gguf")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llm_platform.export.export import Checks, ExportResult, export_adapter, export_merged, export_whole, result_of
from llm_platform.export.gate import Reference, judge
from llm_platform.export.gguf import export_gguf, keep_only, weights_file
from llm_platform.export.prompting import Prompting
from llm_platform.export.runtimes import Answers, Questions, ask_llama_cpp, ask_peft, ask_transformers
from llm_platform.reporting import Reporter
from llm_platform.specs import ExportConfig
from llm_platform.specs.export import ExportFormat
from llm_platform.specs.gate import GateResult
from llm_platform.training.adapter import is_adapter

Gates = dict[str, GateResult]


@dataclass(frozen=True)
class Exporter:
    """`trained` is an adapter's folder or a whole model's, `known` what it answers; exports appear in `folder` by their format."""

    config: ExportConfig
    base_model: Path
    trained: Path
    prompting: Prompting
    known: Reference
    folder: Path
    reporter: Reporter
    threads: int

    def make(self, name: ExportFormat) -> tuple[ExportResult, Gates]:
        """The files in `folder / name`, and what the gate found of each. Of GGUF files only accepted ones stay, if there are any."""
        out = self.folder / name
        match name:
            case "adapter":
                checks, gates = self._adapter(out)
            case "merged":
                checks = self._merge(out)
                ask = partial(ask_transformers, out, device=self.known.device, dtype=self.known.dtype, reporter=self.reporter)
                gates = {name: self._judge("merged", ask, "transformers")}
            case "gguf":
                checks, gates = self._gguf(out)
        return result_of(name, out, checks), gates

    def _adapter(self, out: Path) -> tuple[Checks, Gates]:
        checks = export_adapter(self.trained, out).checks
        self.prompting.write_into(out)
        ask = partial(ask_peft, self.base_model, out, device=self.known.device, dtype=self.known.dtype, reporter=self.reporter)
        return checks, {"adapter": self._judge("adapter", ask, "peft")}

    def _merge(self, out: Path) -> Checks:
        export = export_merged if is_adapter(self.trained) else export_whole
        checks = export(self.base_model, self.trained, out, self.reporter).checks
        self.prompting.write_into(out)
        return checks

    def _gguf(self, out: Path) -> tuple[Checks, Gates]:
        merged = self.folder / "merged"
        if not merged.exists():
            self._merge(merged)
        wanted = list(dict.fromkeys(self.config.gguf_quantization))
        checks = export_gguf(merged, out, wanted, self.prompting, self.reporter, self.threads).checks
        gates: Gates = {}
        for kind in wanted:
            ask = partial(ask_llama_cpp, out / weights_file(kind), work=self.folder, threads=self.threads, reporter=self.reporter)
            gates[f"gguf.{kind}"] = self._judge(kind, ask, "llama.cpp")
        keep_only(out, [kind for kind in wanted if gates[f"gguf.{kind}"].accepted] or wanted)
        return checks, gates

    def _judge(self, kind: str, ask: Callable[[Questions], Answers], runtime: str) -> GateResult:
        return judge(getattr(self.config.gate.agreement, kind), self.config.gate, self.known, ask, runtime)
