"""Tokenizers: bytes that survive the round trip, files of three kinds in two libraries each, callables."""

import base64
import json
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mixlake.catalog import ConfigError
from mixlake.catalog.tokenizer_files import PATTERNS
from mixlake.catalog.tokenizer_libraries import GigatokenEncoder, TokenizersEncoder
from mixlake.catalog.tokenizers import ByteTokenizer, FileTokenizer, TokenizerFile, load_tokenizer, settled

TEXTS = ["def test_bytes() -> None:", "", "Grüße 👍🏽\n\n  雪 12345", " <|endoftext|>x", "wit\ud800h"]
TOKENS = [b"th", b"the", b" the", b"in", b"ing", b"  ", "ü".encode(), b"12", b"\n\n"]


def loaded(spec: Any) -> FileTokenizer:
    tokenizer = load_tokenizer(spec)
    assert isinstance(tokenizer, FileTokenizer)
    return tokenizer


@given(content=st.binary(max_size=200))
def test_bytes_come_back_whatever_they_are(content: bytes) -> None:
    (ids,) = ByteTokenizer().encode([content.decode("utf-8", "surrogateescape")])
    assert bytes(ids[:-1].tolist()) == content
    assert ids[-1] == 256


@pytest.mark.parametrize("library", ["gigatoken", "tokenizers"])
def test_a_tokenizer_file_gives_the_librarys_ids_and_one_end(tokenizer_file: Path, library: str) -> None:
    reference = Tokenizer.from_file(str(tokenizer_file))
    tokenizer = loaded(TokenizerFile(path=tokenizer_file, library=library))
    end = reference.token_to_id("<|endoftext|>")
    texts = [text.replace("\ud800", "\ufffd") for text in TEXTS]
    expected = [[*reference.encode(text, add_special_tokens=False).ids, end] for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode(TEXTS)] == expected
    assert [ids.tolist() for ids in tokenizer.encode(pa.array(texts)[1:])] == expected[1:]
    assert [ids.tolist() for ids in tokenizer.encode(pa.array(texts, pa.large_string()).slice(1, 2))] == expected[1:3]
    assert len(tokenizer.encode([])) == 0
    assert tokenizer.vocab_size == reference.get_vocab_size()
    assert tokenizer.pad_id == end


def with_template(path: Path, single: str, names: list[str]) -> Path:
    """A byte-level BPE whose template puts tokens around a text, and which is set to cut it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(names)
    special = [(name, int(tokenizer.token_to_id(name) or 0)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("library", ["gigatoken", "tokenizers"])
def test_what_a_template_puts_around_a_text_comes_once(tmp_path: Path, library: str) -> None:
    path = with_template(tmp_path / "t.json", "<s> $A", ["<s>", "</s>"])
    begin, end = 256, 257
    tokenizer = loaded(TokenizerFile(path=path, library=library))
    plain = [ids.tolist() for ids in loaded(TokenizerFile(path=path, bos=False, eos=False)).encode(["abcdef", ""])]
    assert (len(plain[0]), plain[1]) == (6, [])
    for texts in (["abcdef", ""], ["<s>abcdef", "<s>"], ["abcdef</s>", "</s>"]):
        assert [ids.tolist() for ids in tokenizer.encode(texts)] == [[begin, *ids, end] for ids in plain]


def test_bos_and_eos_can_be_chosen(tmp_path: Path) -> None:
    path = with_template(tmp_path / "t.json", "[CLS] $A [SEP]", ["[CLS]", "[SEP]", "<s>", "<|im_end|>"])
    frames = {
        (None, None): ((256,), (257,)),
        (False, True): ((), (257,)),
        ("<s>", "<|im_end|>"): ((258,), (259,)),
    }
    for (bos, eos), expected in frames.items():
        tokenizer = loaded(TokenizerFile(path=path, bos=bos, eos=eos))
        assert (tokenizer.bos_ids, tokenizer.eos_ids) == expected
        assert tokenizer.pad_id == expected[1][0]
    with pytest.raises(ConfigError, match=r"tokenizer '.*t\.json' has no token '<eot>', which eos='<eot>' asks for"):
        load_tokenizer(TokenizerFile(path=path, eos="<eot>"))


@pytest.fixture
def ranks_file(tmp_path: Path) -> Path:
    """Ranks as tiktoken has them: all bytes, then some tokens."""
    tokens = [*(bytes([byte]) for byte in range(255, -1, -1)), *TOKENS]
    path = tmp_path / "some.tiktoken"
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
    return path


@pytest.mark.parametrize("library", ["gigatoken", "tiktoken"])
@pytest.mark.parametrize("pattern", ["r50k_base", "cl100k_base", "o200k_base"])
def test_ranks_give_tiktokens_ids(ranks_file: Path, library: str, pattern: str) -> None:
    tokens = [*(bytes([byte]) for byte in range(255, -1, -1)), *TOKENS]
    reference = tiktoken.Encoding(
        "reference",
        pat_str=PATTERNS[pattern],
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    texts = [*TEXTS, "Nothing in  the Gebüsch 1234, theing\n\n\nthinthing"]
    end = (("<|endoftext|>", 300),)
    tokenizer = loaded(TokenizerFile(path=ranks_file, library=library, pattern=pattern, special_tokens=end))
    sound = [text.replace("\ud800", "\ufffd") for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == [[*reference.encode_ordinary(t), 300] for t in sound]
    assert tokenizer.vocab_size == 301
    assert max(ids.max() for ids in tokenizer.encode(sound[-1:])) == 300


def test_ranks_need_a_pattern_unless_their_file_is_known(ranks_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not say how text is split .*: give TokenizerFile\(path, pattern=…\)"):
        load_tokenizer(ranks_file)
    known = ranks_file.rename(ranks_file.with_name("cl100k_base.tiktoken"))
    assert loaded(known).eos_ids == (100257,)


@pytest.fixture
def tekken_file(tmp_path: Path) -> Path:
    tokens = [*(bytes([byte]) for byte in range(256)), *TOKENS]
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)]
    names = ["<unk>", "<s>", "</s>", "[INST]"]
    special = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]
    config = {"pattern": PATTERNS["o200k_base"], "default_vocab_size": 270, "default_num_special_tokens": 10}
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps({"config": config, "vocab": vocab, "special_tokens": special}))
    return path


@pytest.mark.parametrize("library", ["gigatoken", "tiktoken"])
def test_tekken_puts_its_special_tokens_before_the_others(tekken_file: Path, library: str) -> None:
    tokenizer = loaded(TokenizerFile(path=tekken_file, library=library))
    assert tokenizer.encode([" the"])[0].tolist() == [1, 10 + 258, 2]
    # of 270 ids, 10 are special, so that four of the tokens are out of bounds
    assert tokenizer.encode(["a\n\n"])[0].tolist() == [1, 10 + ord("a"), 20, 20, 2]
    assert tokenizer.vocab_size == 270


@pytest.mark.skipif(find_spec("mistral_common") is None, reason="mistral-common is not installed")
def test_mistrals_own_file_gives_mistrals_ids() -> None:
    spec = find_spec("mistral_common")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "data" / "tekken_240911.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # noqa: PLC0415

        reference = Tekkenizer.from_file(path)
    tokenizer = loaded(path)
    texts = [text.replace("\ud800", "\ufffd") for text in TEXTS] + [Path(__file__).read_text(encoding="utf-8")]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == [reference.encode(t, bos=True, eos=True) for t in texts]
    assert (tokenizer.vocab_size, tokenizer.encoder.library) == (reference.n_words, "gigatoken")


def test_the_fastest_library_is_kept_where_the_reference_agrees(tokenizer_file: Path) -> None:
    tokenizer = loaded(tokenizer_file)
    assert tokenizer.encoder.library == "gigatoken"
    spec = settled(str(tokenizer_file), tokenizer)
    assert spec == TokenizerFile(path=str(tokenizer_file), library="gigatoken")
    assert tokenizer.name == loaded(TokenizerFile(path=tokenizer_file, library="tokenizers")).name
    assert tokenizer.name != loaded(TokenizerFile(path=tokenizer_file, eos=False)).name


def test_what_only_the_reference_reads_is_read_by_it_with_a_warning(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    path = tmp_path / "words.json"
    backend.save(str(path))
    with pytest.warns(UserWarning, match=r"cannot be read by gigatoken: .*WordPiece.*asks for that"):
        tokenizer = loaded(path)
    assert tokenizer.encode(["ab"])[0].tolist() == [1, 2]
    assert loaded(TokenizerFile(path=path, library="tokenizers")).encoder.library == "tokenizers"
    with pytest.raises(ConfigError, match="cannot be read by gigatoken"):
        load_tokenizer(TokenizerFile(path=path, library="gigatoken"))


@pytest.fixture
def disagreeing_file(tmp_path: Path) -> Path:
    """A tokenizer.json that gigatoken reads otherwise: it merges always, the reference hardly ever."""
    tokenizer = Tokenizer.from_file(str(with_template(tmp_path / "t.json", "$A", [])))
    content = json.loads(tokenizer.to_str())
    content["post_processor"] = None
    content["model"]["merges"] = [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]
    content["model"]["vocab"] |= {"ab": 256, "bc": 257, "abc": 258}
    content["model"]["dropout"] = 0.999
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    return path


def test_other_ids_than_the_references_are_never_given(disagreeing_file: Path) -> None:
    vocabulary = loaded(TokenizerFile(path=disagreeing_file, library="tokenizers")).vocabulary
    fast, reference = GigatokenEncoder(vocabulary), TokenizersEncoder(vocabulary)
    assert fast.encode(["abab"])[0].tolist() != reference.encode(["abab"])[0].tolist()
    with pytest.warns(UserWarning, match="gives other ids in gigatoken than in tokenizers, as for "):
        assert loaded(disagreeing_file).encoder.library == "tokenizers"


def test_without_the_fast_library_the_reference_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tokenizer_file: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.warns(
        UserWarning, match=r"needs the gigatoken library: pip install 'mixlake\[gigatoken\]'. It is read"
    ):
        assert loaded(tokenizer_file).encoder.library == "tokenizers"


@pytest.mark.parametrize("library", ["tokenizers", "tiktoken"])
def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tokenizer_file: Path, tekken_file: Path, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs the {library} library: pip install 'mixlake\[{library}\]'"):
        load_tokenizer(tokenizer_file if library == "tokenizers" else tekken_file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"tokenizer '.*tokenizer\.json' cannot be read: it has no model; expected a tokenizer.json, a tekken"),
        ('{"model": {"type": "BPE"}}', r"tokenizer '.*tokenizer\.json' cannot be read"),
        ("no json", r"tokenizer '.*tokenizer\.json' cannot be read: Expecting value"),
        ('{"config": {}, "vocab": []}', "as a tekken file it lacks 'default_vocab_size'"),
        ("YQ== 0\n!!! 1\n", r"tokenizer '.*tokenizer\.json' cannot be read"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    pattern = "r50k_base" if content.startswith("YQ") else None
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(TokenizerFile(path=tmp_path / "tokenizer.json", pattern=pattern))


def test_wrong_settings_are_refused(tokenizer_file: Path) -> None:
    with pytest.raises(
        ConfigError, match="tokenizer library is 'x'; expected one of fastest, gigatoken, tiktoken, tok"
    ):
        load_tokenizer(TokenizerFile(path=tokenizer_file, library="x"))
    with pytest.raises(ConfigError, match="cannot be read by tiktoken; expected one of fastest, gigatoken, tokenizers"):
        load_tokenizer(TokenizerFile(path=tokenizer_file, library="tiktoken"))
    with pytest.raises(ConfigError, match="is no file of ranks; pattern and special_tokens are for those"):
        load_tokenizer(TokenizerFile(path=tokenizer_file, pattern="r50k_base"))
