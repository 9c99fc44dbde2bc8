"""The command line as a user meets it: real processes, exit codes, one-paragraph errors, no tracebacks."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mixlake.catalog import Catalog
from mixlake.conf.cli import main
from mixlake.conf.commands import COMMANDS
from mixlake.conf.schema import SCHEMAS

Call = Callable[..., str]
MIXLAKE = Path(sys.executable).with_name("mixlake")


def mixlake(*arguments: str, cwd: Path, code: int = 0) -> str:
    """Run the command; return its output, or its error text where it must fail."""
    done = subprocess.run([str(MIXLAKE), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert "Traceback" not in done.stderr
        assert "Error executing job" not in done.stderr
    else:
        assert done.stderr == ""
    return done.stderr if code else done.stdout


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process, which saves the imports."""

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        found: object = 0
        try:
            main(arguments)
        except SystemExit as done:  # --help leaves this way too
            found = done.code or 0
        assert found == code
        out, error = capsys.readouterr()
        assert (error if code == 0 else out) == ""
        return error if code else out

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake of two datasets and a mixture of the user's own."""
    folder = tmp_path_factory.mktemp("project")
    for language, num in (("de", 40), ("en", 160)):
        lines = [json.dumps({"text": f"{language} {i}", "meta": {"language": language}}) for i in range(num)]
        (folder / f"{language}.jsonl").write_text("\n".join(lines))
        mixlake(
            "register", f"name={language}", f"uri={language}.jsonl", "properties.language=meta.language", cwd=folder
        )
    (folder / "my" / "mixture").mkdir(parents=True)
    (folder / "my" / "mixture" / "both.yaml").write_text(
        "components:\n"
        "  german: {where: \"language = 'de'\", weight: 0.25}\n"
        "  english: {where: \"language = 'en'\", weight: 0.75}\n"
    )
    mixlake("run", "name=exp1", "chunk_size=16", "lanes=2", *own_mixture(), cwd=folder)
    mixlake("schedule", "run=exp1", "num_chunks=3", cwd=folder)
    return folder


def own_mixture() -> list[str]:
    return ["--config-dir", "my", "mixture=both"]


def test_every_command_has_a_config_and_a_schema() -> None:
    configs = {path.stem for path in Path(str(sys.modules["mixlake.conf"].__path__[0])).glob("*.yaml")}
    assert configs == set(COMMANDS) == set(SCHEMAS)


def test_alone_it_lists_the_commands(call: Call) -> None:
    overview = call()
    assert call("--help") == overview
    assert all(
        re.search(rf"^  {name} +{re.escape(command.summary)}$", overview, re.M) for name, command in COMMANDS.items()
    )


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_the_composed_config(call: Call, name: str) -> None:
    arguments = own_mixture() if name in ("explain", "run") else []
    text = call(name, *arguments, "--help")
    assert text.startswith(f"mixlake {name}: {COMMANDS[name].summary}")
    assert re.search(r"^lake: ", text, re.M)


def test_what_cannot_be_read_is_left_out_on_request_and_counted(call: Call, folder: Path) -> None:
    (folder / "torn.jsonl").write_text('{"text": "a"}\n{"text"\n')
    refused = call("register", "lake=torn-lake", "name=torn", "uri=torn.jsonl", code=2)
    assert "torn.jsonl, line 2: not JSON" in refused
    out = call("register", "lake=torn-lake", "name=torn", "uri=torn.jsonl", "on_error=skip")
    assert "torn: 1 sample in 1 file," in out
    assert "left out: 1 record or file; SELECT" in out
    assert "line 2" in call("sql", "lake=torn-lake", "SELECT place, reason FROM skipped")
    (folder / "torn.jsonl").unlink()


def test_registered_datasets_are_listed_and_queried(call: Call) -> None:
    assert re.search(r"de +jsonl +1 +40 ", call("datasets"))
    assert re.search(r"language +string +meta\.language +sql", call("properties"))
    assert len(re.findall(r"register", call("history"))) == 2
    query = "SELECT language, count(*) AS n FROM samples WHERE language = 'de' GROUP BY 1"
    assert re.search(r"de +40 ", call("sql", query))
    assert "en" not in call("sql", "version=1", "SELECT DISTINCT language FROM samples")
    moments = {row["version"]: row["timestamp"] for row in Catalog.open("lake").history().to_pylist()}
    moment = f"timestamp={moments[1]:%Y-%m-%dT%H:%M:%S.%fZ}"
    assert "en" not in call("sql", moment, "SELECT DISTINCT language FROM samples")
    assert "takes a version or a timestamp" in call("datasets", moment, "version=1", code=2)


def test_a_dataset_is_refreshed_weeded_compared_collected_and_unregistered(tmp_path: Path, call: Call) -> None:
    lake = f"lake={tmp_path}/lake"
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": "x", "kind": "good"}\n{"text": "y", "kind": "bad"}\n')
    call("register", lake, "name=pages", f"uri={data}", "properties.kind=kind")
    (data / "b.jsonl").write_text('{"text": "z", "kind": "good"}\n{torn\n')
    assert "b.jsonl, line 2: not JSON" in call("refresh", lake, "pages", code=2)
    text = call("refresh", lake, "pages", "on_error=skip")
    assert text.splitlines() == [
        "pages: 1 added, 0 changed, 0 vanished, 1 unchanged; datasets@2",
        f"  added     {data}/b.jsonl",
    ]
    text = call("remove", lake, "kind = 'bad'", "reason=it is bad")
    assert text == "1 samples removed (1 of pages); datasets@3\n"
    assert call("diff", lake, "before=2").splitlines() == [
        "datasets@2 to datasets@3",
        "  changed   pages: 3 → 2 samples, 2 files",
        "  pages: kind = bad: 1 → 0 samples",
    ]
    assert re.search(r"3 .* remove +pages +-1 +num_removed: pages 1; reason: it is bad", call("history", lake))
    assert call("gc", lake, "older_than=0d", "dry_run=true").startswith("2 catalog versions would be collected 1-2, 2")
    assert call("gc", lake, "older_than=0d").startswith("2 catalog versions collected 1-2, 2 kept")
    assert "gc has collected" in call("sql", lake, "version=1", "SELECT * FROM samples", code=2)
    assert call("unregister", lake, "pages").startswith("pages is unregistered; older versions still show it")
    assert "pages" not in call("datasets", lake)


def test_inferred_properties_are_printed_and_used(tmp_path: Path, call: Call) -> None:
    lake = f"lake={tmp_path / 'lake'}"
    text = call("register", lake, "name=de", "uri=de.jsonl", "properties=infer")
    assert re.search(r"^\+ +language +meta\.language +string +1 +the same in every record$", text, re.M)
    assert re.search(r"language +string +meta\.language +sql", call("properties", lake))


def test_properties_are_added(tmp_path: Path, call: Call) -> None:
    lake = f"lake={tmp_path / 'lake'}"
    call("register", lake, "name=de", "uri=de.jsonl", "properties.language=meta.language")
    assert call("add-property", lake, "name=shout", "upper(text) || language").strip() == "shout is added; datasets@2"
    signals = "source={_target_: mixlake.catalog.Quality, signals: [num_words]}"
    assert call("add-property", lake, "name=quality", "to=de", signals).strip() == "quality is added; datasets@3"
    call("add-property", lake, "name=dup", "source={_target_: mixlake.catalog.ExactDuplicates}")
    query = "SELECT shout, quality_num_words, dup_rank FROM samples WHERE row = 3"
    assert re.search(r"DE 3de +2 +0", call("sql", lake, query))


def test_explain_prints_the_mixture_with_overrides(call: Call) -> None:
    text = call("explain", *own_mixture(), "mixture.components.german.weight=0.75")
    assert re.search(r"german +50\.00% +20\.00% +40 +80 +stop +0", text)
    assert "The run stops after about 80 samples, when german runs out." in text


def test_a_run_is_started_scheduled_and_traced(call: Call) -> None:
    assert re.search(r"exp1 +2 +0 +16 +2 ", call("runs"))
    assert re.search(r"1 +0 +0 +declared +25\.00% +75\.00%", call("weights", "run=exp1"))
    assert len(re.findall(r"german +de +\d+ |english +en +\d+ ", call("samples", "run=exp1", "chunk=2"))) == 16
    samples = json.loads(call("samples", "run=exp1", "chunk=2", "output=json"))
    german = next(sample for sample in samples if sample["component"] == "german")
    where = f"registration = '{german['registration']}' AND row = {german['row']}"
    (hit,) = json.loads(call("lineage", "run=exp1", where, "output=json"))
    assert (hit["chunk"], hit["component"], hit["pass"], hit["row"]) == (2, "german", 0, german["row"])
    assert re.search(rf"^ +2 +german +0 +1 +de .*{german['row']} ", call("lineage", "run=exp1", where), re.M)


def test_tokens_are_written_once_and_registered(call: Call) -> None:
    call("register", "lake=own", "name=de", "uri=de.jsonl")
    told = call("tokenize", "de", "lake=own", "into=ids", "to=ids", "tokenizer=bytes")
    assert re.match(r"ids: 230 tokens of 40 samples; datasets@\d+\n", told)
    assert "230" in call("sql", "lake=own", "SELECT sum(num_tokens) AS n FROM samples WHERE dataset = 'ids'")
    message = call("tokenize", "de", "lake=own", "into=x", "to=x", "tokenizer={path: no.json, end: x}", code=2)
    assert "unexpected keyword argument 'end'; fields: path, bos, eos, library, pattern, special_tokens" in message


def test_scheduling_to_the_end_says_so(call: Call) -> None:
    call("run", "name=short", "chunk_size=64", *own_mixture())
    assert call("schedule", "run=short").strip() == "3 chunks; the last one is 2, which ends the run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regster"], "there is no command 'regster'; .* Did you mean 'register'?"),
        (["register", "name=x"], "mixlake register needs uri=…; see mixlake register --help"),
        (["register", "name=x", "uri=nothing*"], "'nothing*' matches no file"),
        (["register", "name=de", "uri=de.jsonl"], "dataset 'de' is registered already .datasets@2."),
        (["register", "name=x", "uri=de.jsonl", "properties.l=meta.langage"], "Did you mean 'meta.language'?"),
        (
            ["register", "name=x", "uri=de.jsonl", "formt=jsonl"],
            "there is no key 'formt'; there are: lake, .*format.* Did you mean 'format'",
        ),
        (["register", "name=x", "uri=bad.jsonl"], r"bad\.jsonl, line 2: not JSON"),
        (["sql", "SELECT lang FROM samples"], "unknown column 'lang'.* Did you mean 'language'?"),
        (["sql", "DROP TABLE samples"], "DropTable is refused: queries only read"),
        (["datasets", "lake=nowhere"], "there is no lake at .*nowhere"),
        (["datasets", "version=9"], "datasets@9 does not exist in .*; versions are 0 to 2"),
        (["datasets", "version=new"], "version is 'new'; expected a whole number, or null"),
        (["explain"], "choose a mixture, mixture=NAME; there are: everything, inferred"),
        (["explain", *own_mixture(), "mixture.components.german.weight=-1"], r"german\.weight is -1"),
        (
            ["explain", *own_mixture(), "mixture.components.german.weight=a"],
            r"german\.weight is 'a'; expected a number",
        ),
        (["explain", *own_mixture(), "mixture.components.german.where=lang"], "unknown property 'lang'"),
        (["explain", *own_mixture(), "mixture.components.german.where='1 ='"], "Expected: an expression"),
        (["explain", *own_mixture(), "mixture.components.german.where='false'"], "german is empty: no sample matches"),
        (["explain", *own_mixture(), "+mixture.units=bytes"], "mixture has no key 'units'.* Did you mean 'unit'?"),
        (["run", "name=exp1", *own_mixture()], "run 'exp1' exists already"),
        (["schedule", "run=exp2"], "no run 'exp2' in .*; there are: .* Did you mean 'exp1'?"),
        (["refresh", "dee"], "no dataset 'dee' in datasets@2; there are: de, en. Did you mean 'de'?"),
        (["refresh", "de", "on_error=ignore"], "on_error is 'ignore'; allowed: raise, skip"),
        (["add-property", "name=x", "nothing + 1"], "no record has a field 'nothing'"),
        (["add-property", "name=x", "source={_target_: mixlake.catalog.Languages}"], "mixlake.catalog.Languages: "),
        (["unregister", "dee"], "no dataset 'dee' in datasets@2"),
        (["remove", "language = 'de'"], "mixlake remove needs reason=…"),
        (["remove", "lang = 'de'", "reason=x"], "unknown property 'lang'.* Did you mean 'language'?"),
        (["gc", "older_than=soon"], "older_than is 'soon'; expected a number and d, h, m or s, such as 30d"),
        (["diff", "before=7"], "datasets@7 does not exist in .*; versions are 0 to 2"),
        (["samples", "run=exp1", "chunk=99"], "run 'exp1' has no chunk 99; its last chunk is 2"),
    ],
)
def test_wrong_input_is_one_paragraph_and_exit_code_2(
    folder: Path, call: Call, arguments: Sequence[str], message: str
) -> None:
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    before = Catalog.open(str(folder / "lake")).version
    error = call(*arguments, code=2)
    assert error.startswith("mixlake: ")
    assert error.count("\n") == 1
    assert re.search(message.replace("*'", r"\*'").replace("?", r"\?"), error), error
    assert Catalog.open(str(folder / "lake")).version == before


def test_a_wrong_input_leaves_no_traceback_in_a_real_process(folder: Path) -> None:
    assert mixlake("register", "name=x", "uri=nothing*", cwd=folder, code=2).startswith("mixlake: 'nothing*' matches")
    assert mixlake("datasets", "lake=nowhere", cwd=folder, code=2).startswith("mixlake: there is no lake at")


def test_every_answer_is_json_on_request(call: Call, tmp_path: Path) -> None:
    lake, own = f"lake={tmp_path}/lake", [*own_mixture(), "chunk_size=16"]
    done = {
        name: json.loads(call(name, lake, "output=json", *arguments))
        for name, arguments in {
            "register": ["name=pages", "uri=[de.jsonl,en.jsonl]", "properties.language=meta.language"],
            "add-property": ["name=shout", "upper(text)"],
            "refresh": ["pages"],
            "remove": ["row = 3", "reason=x"],
            "datasets": [],
            "properties": [],
            "history": [],
            "diff": ["before=1"],
            "tables": ["samples"],
            "sql": ["SELECT count(*) AS n FROM samples"],
            "explain": own,
            "fit-mixture": [*own_mixture(), f"into={tmp_path}/sweep", "experiments=3"],
            "run": ["name=exp1", *own],
            "schedule": ["run=exp1", "num_chunks=2"],
            "weights": ["run=exp1"],
            "runs": [],
            "samples": ["run=exp1"],
            "lineage": ["run=exp1", "row < 9"],
            "fork": ["run=exp1", "name=exp2", "at_chunk=1"],
            "plot": ["weights", "run=exp1", f"to={tmp_path}/a.png"],
            "tokenize": ["pages", "into=ids", f"to={tmp_path}/ids", "tokenizer=bytes"],
            "gc": ["dry_run=true"],
            "unregister": ["ids"],
        }.items()
    }
    assert done.keys() | {"demo", "adapt"} == COMMANDS.keys()
    assert done["register"]["num_samples"] == 200
    assert done["remove"]["num_samples"] == {"pages": 2}
    assert done["sql"] == [{"n": 198}]
    assert done["tables"][-1] == {"column": "shout", "type": "string", "meaning": "property of pages: upper(text)"}
    assert [row["name"] for row in done["explain"]["components"]] == ["german", "english"]
    assert done["schedule"] == {"run": "exp1", "num_chunks": 2, "last_chunk": 1, "is_ended": False}
    assert done["weights"][0]["weights"][0] == {"component": "german", "weight": 0.25}
    assert done["history"][0]["action"] == "remove"
    assert done["tokenize"]["num_tokens"] > 1000
    assert "output is 'yaml'; allowed: text, json" in call("datasets", "output=yaml", code=2)
