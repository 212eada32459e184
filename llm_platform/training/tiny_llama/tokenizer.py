"""The tokenizer: SentencePiece BPE with byte fallback, as Llama 2 has it, and the same in the format of `tokenizers`."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

from llm_platform.training.tiny_llama.corpus import documents
from llm_platform.training.tiny_llama.recipe import Recipe

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPECIAL = (UNK, BOS, EOS, PAD)  # their ids are their places
SPACE = "\u2581"  # how SentencePiece writes a space


def train(recipe: Recipe) -> bytes:
    """The bytes of `tokenizer.model`."""
    from sentencepiece import SentencePieceTrainer

    texts = itertools.islice(documents(recipe.seed), recipe.tokenizer_documents)
    lines = (line for text in texts for line in text.split("\n") if line)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=recipe.vocabulary, byte_fallback=True,
        character_coverage=1.0, split_digits=True, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", add_dummy_prefix=True, unk_id=0, bos_id=1, eos_id=2, pad_id=3,
        pad_piece=PAD, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def save(model: bytes, folder: Path, context: int) -> None:
    """Write tokenizer.model, tokenizer.json and the two files of settings. `context` is the model's longest, in tokens.

    tokenizer.json lies beside the SentencePiece file since transformers would need a protobuf that clashes to read the
    latter. It is built here piece by piece, so that no converter is needed. The class is the plain fast one: Llama's
    own in transformers 5 ignores tokenizer.json's rules and loses a space at the start of a text.
    """
    folder.joinpath("tokenizer.model").write_bytes(model)
    fast(model).save(str(folder / "tokenizer.json"))
    names = {"unk_token": UNK, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    config: dict[str, Any] = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": {
            str(number): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for number, token in enumerate(SPECIAL)
        },
    }  # fmt: skip
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    folder.joinpath("special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def fast(model: bytes) -> Any:
    """The same tokenizer as a `tokenizers.Tokenizer`; a text's ids start with BOS."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pieces = SentencePieceProcessor(model_proto=model)
    vocabulary: dict[str, int] = {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    result = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(pieces), unk_token=UNK, fuse_unk=True, byte_fallback=True))
    result.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    result.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    result.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, vocabulary[BOS])]
    )
    result.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return result


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """SentencePiece keeps no merges, only pieces in the order in which they were made: every way to put a piece together
    from two others is a merge, at the piece's rank."""
    rank = {
        pieces.id_to_piece(number): pieces.get_score(number)
        for number in range(pieces.get_piece_size())
        if not (pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number))
    }
    made: list[tuple[float, tuple[str, str]]] = []
    for piece, score in rank.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        made += [(score, pair) for pair in pairs if pair[0] in rank and pair[1] in rank]
    made.sort(key=lambda item: -item[0])
    return [pair for _, pair in made]
