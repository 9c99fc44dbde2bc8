"""Token counts and languages of texts."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from mixlake.catalog import ConfigError, Language, NumTokens, Quality, RecordFunction, text_properties

SENTENCES = {
    "de": "Die Datei konnte nicht geöffnet werden, weil sie nicht vorhanden ist.",
    "en": "The file could not be opened because it does not exist.",
    "fr": "Le fichier n'a pas pu être ouvert parce qu'il n'existe pas.",
    "ja": "ファイルが存在しないため、開くことができませんでした。",
    "ru": "Файл не может быть открыт, потому что он не существует.",
    "tr": "Dosya mevcut olmadığı için açılamadı.",
}


def values(function: RecordFunction, texts: list[str | None], kind: pa.DataType | None = None) -> list[Any]:
    records = pa.RecordBatch.from_arrays([pa.array(texts, kind or pa.string())], [function.fields[0]])
    found: list[Any] = function(records).to_pylist()
    return found


def test_tokens_are_counted_with_the_end_of_the_document(tokenizer_file: Path) -> None:
    reference = Tokenizer.from_file(str(tokenizer_file))
    texts = list(SENTENCES.values())
    expected = [len(reference.encode(text, add_special_tokens=False).ids) + 1 for text in texts]
    assert values(NumTokens(tokenizer=str(tokenizer_file)), list(texts)) == expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_bytes_are_counted_as_the_byte_tokenizer_does_and_null_stays_null(kind: pa.DataType) -> None:
    assert values(NumTokens(text="body"), ["é", "", None], kind) == [3, 1, None]


def test_a_tokenizer_is_found_again_from_another_folder(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tokenizer_file.parent)
    function = NumTokens(tokenizer="tokenizer.json")
    monkeypatch.chdir(tmp_path)
    assert function.tokenizer == str(tokenizer_file)
    assert values(function, ["text"]) == values(NumTokens(tokenizer=str(tokenizer_file)), ["text"])


def test_a_tokenizer_that_is_missing_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer '.*/none\.json' is no file; expected 'bytes', or the path of"):
        NumTokens(tokenizer="none.json")


def test_languages_are_identified() -> None:
    assert values(Language(), list(SENTENCES.values())) == list(SENTENCES)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_there_is_no_language_of_no_text(kind: pa.DataType) -> None:
    assert values(Language(), [None, "", " \n", SENTENCES["de"]], kind) == [None, None, None, "de"]


def test_only_the_head_of_a_long_text_is_looked_at() -> None:
    text = SENTENCES["de"] + SENTENCES["ru"] * 10
    assert values(Language(max_chars=len(SENTENCES["de"])), [text]) == ["de"]
    assert values(Language(), [text]) == ["ru"]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    text_properties._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ImportError, match=r"^Language needs the py3langid library: pip install 'mixlake\[language\]'$"):
        Language()


WORKER = """
import pickle, sys
import pyarrow as pa
functions = pickle.load(sys.stdin.buffer)
for function in functions:
    records = pa.RecordBatch.from_pydict({function.fields[0]: ["Guten Tag, wie geht es Ihnen heute?"]})
    print(function(records)[0])
"""


def test_functions_travel_to_other_processes() -> None:
    functions = [NumTokens(), Language(), Quality(signals=("num_words",))]
    done = subprocess.run(
        [sys.executable, "-c", WORKER], input=pickle.dumps(functions), capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().split("\n", 2)[:2] == ["36", "de"]
    assert "7" in done.stdout.decode().split("\n", 2)[2]
