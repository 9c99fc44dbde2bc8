"""Runs from the command line: curricula, sweeps, another run's declaration, weights by hand, following loaders."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Run, list_runs

MIXLAKE = Path(sys.executable).with_name("mixlake")
Mixlake = Callable[..., str]
MIXTURE = """
components:
  german: {where: "language = 'de'", weight: 1}
  code:
    where: "language = 'py'"
    weight: 1
    components:
      short: {where: "num_bytes < 5", weight: 1}
      long: {weight: 3}
  rest: {weight: 2}
on_exhausted: redistribute
"""
CURRICULUM = """
stages:
  first: {until: {chunks: 3}}
  second: {weights: {code: 0.6}, ramp: {over: {chunks: 2}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    records = [{"text": f"{n}", "language": ("de", "en", "py")[n % 3]} for n in range(30_000)]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, records)))
    catalog = Catalog.create(str(folder / "lake"))
    catalog.register(
        "all", str(folder / "all.jsonl"), properties={"language": "language", "num_bytes": "octet_length(text)"}
    )
    for group, text in (("mixture", MIXTURE), ("curriculum", CURRICULUM)):
        (folder / "my" / group).mkdir(parents=True)
        (folder / "my" / group / "mine.yaml").write_text(text)
    (folder / "my" / "mixture" / "broken.yaml").write_text("components:\n  a: {where: x weight: 1\n")
    return folder


@pytest.fixture(scope="module")
def mixlake(folder: Path) -> Mixlake:
    def call(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [str(MIXLAKE), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    return call


def load(folder: Path, name: str) -> Run:
    return Run.load(Catalog.open(str(folder / "lake")), name)


OWN = ("--config-dir", "my", "mixture=mine")


def test_a_run_is_composed_scheduled_and_reweighted(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", *OWN, "curriculum=mine", "name=exp1", "chunk_size=100", "mixture.components.code.weight=2")
    assert load(folder, "exp1").components == ("german", "code.short", "code.long", "rest")
    assert load(folder, "exp1").config.composed is not None
    assert mixlake("schedule", "run=exp1", "num_chunks=4").strip() == "4 chunks; the last one is 3"
    out = mixlake("weights", "run=exp1", "set.code.short=0.3", "set.german=0.1", "from_chunk=6")
    assert out.startswith("set from chunk 6 on")
    mixlake("schedule", "run=exp1", "num_chunks=3")
    rows = load(folder, "exp1").weights().to_pylist()
    causes = [(row["chunk"], row["cause"]) for row in rows]
    assert causes == [(0, "declared"), *((chunk, "curriculum") for chunk in (3, 4, 5)), (6, "manual")]
    assert {w["component"]: round(w["weight"], 3) for w in rows[-1]["weights"]}["code.short"] == 0.3
    error = mixlake("weights", "run=exp1", "set.german=0.1", "from_chunk=2", code=2)
    assert "from_chunk is 2, but run 'exp1' is scheduled up to chunk 7" in error
    assert "set.NAME=SHARE is missing" in mixlake("weights", "run=exp1", "from_chunk=9", code=2)
    again = mixlake("explain", "--config-dir", "my", "--from", "exp1", "mixture.components.code.weight=3")
    assert "second" in again


def test_another_run_starts_with_the_same_declaration_and_overrides(mixlake: Mixlake, folder: Path) -> None:
    ratios = "tokens_per_byte={german: 0.3, code.short: 0.4, code.long: 0.4, rest: 0.25}"
    first = ("name=source", "mixture.unit=tokens", ratios, "chunk_size=50", "lanes=2", "length={tokens: 900}")
    mixlake("run", *OWN, "+mixture.unit=tokens", *[a for a in first if "unit" not in a], "step={tokens: 10}", "seed=7")
    mixlake("run", "--from", "source", "name=same")
    mixlake("run", "--from=source", "name=other", "seed=8", "mixture.components.german.weight=5")
    source, same, other = (load(folder, name).config for name in ("source", "same", "other"))
    assert same.config_hash == source.config_hash != other.config_hash
    assert (other.seed, other.mixture.components[0].weight, other.length) == (8, 5.0, source.length)
    assert "no run 'sauce'" in mixlake("run", "--from", "sauce", "name=x", code=2)


def test_a_sweep_starts_a_run_for_every_job_named_by_its_overrides(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", "-m", *OWN, "name=sweep", "seed=0,1", "mixture.components.german.weight=0.2,0.4", "chunk_size=50")
    names = [row["run"] for row in list_runs(Catalog.open(str(folder / "lake"))).to_pylist()]
    assert [name for name in names if name.startswith("sweep")] == [
        f"sweep-seed-{seed}-german.weight-{weight}" for seed in (0, 1) for weight in (0.2, 0.4)
    ]
    assert load(folder, "sweep-seed-1-german.weight-0.4").config.seed == 1
    assert not (folder / "multirun.yaml").exists(), "Hydra writes one for each sweep"


def test_a_sweep_goes_through_curricula_and_none(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", "-m", *OWN, "name=staged-or-not", "curriculum=mine,null", "length.chunks=9")
    staged, plain = (load(folder, f"staged-or-not-curriculum-{name}").config for name in ("mine", "none"))
    assert (staged.curriculum is None, plain.curriculum is None) == (False, True)
    assert "null cannot be one of several choices" in mixlake("run", "-m", *OWN, "shuffle=wide,null", code=2)


def test_another_length_takes_the_place_of_the_other_runs(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", *OWN, "name=measured", "length={samples: 900}", "step.samples=10")
    mixlake("run", "--from", "measured", "name=shorter", "length.chunks=2", "step={samples: 20}")
    config = load(folder, "shorter").config
    assert (config.length and config.length.to_dict(), config.step and config.step.to_dict()) == (
        {"chunks": 2},
        {"samples": 20},
    )


def test_what_is_chosen_is_not_taken_from_the_other_run(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", *OWN, "curriculum=mine", "name=staged", "chunk_size=50", "seed=7")
    mixlake("run", "--from", "staged", "name=unstaged", "curriculum=null", "scale=small")
    config = load(folder, "unstaged").config
    assert (config.curriculum, config.chunk_size, config.lanes, config.seed) == (None, 256, 4, 7)
    assert config.mixture == load(folder, "staged").config.mixture
    mixlake("run", *OWN, "name=scaled", "scale=small", "lanes=2")
    assert (load(folder, "scaled").config.chunk_size, load(folder, "scaled").config.lanes) == (256, 2)


def test_what_all_stages_share_is_overridden_for_all_of_them(mixlake: Mixlake, folder: Path) -> None:
    (folder / "my" / "curriculum" / "other.yaml").write_text(
        "stages: {first: {until: {chunks: 3}}, second: {mixture: {components: {english: {weight: 1}}}}}"
    )
    mixlake("run", *OWN, "curriculum=other", "name=narrow")
    mixlake("run", "--from", "narrow", "name=wide", "shuffle=wide")
    config = load(folder, "wide").config
    assert config.curriculum is not None
    assert [config.mixture.window, *(m.window for s in config.curriculum.stages if (m := s.mixture))] == [16, 16]


def test_what_a_component_leaves_unsaid_is_overridden_as_what_it_says(mixlake: Mixlake, folder: Path) -> None:
    settings = ("german.on_exhausted=repeat", "german.max_passes=3", "code.components.long.order_by=num_bytes")
    mixlake("run", *OWN, "name=unsaid", *(f"mixture.components.{setting}" for setting in settings))
    german, code, _ = load(folder, "unsaid").config.mixture.components
    assert (german.rules.on_exhausted, german.rules.max_passes) == ("repeat", 3)
    assert code.components[1].rules.order_by is not None
    assert "Did you mean 'german'?" in mixlake(
        "run", *OWN, "name=typo", "mixture.components.germn.on_exhausted=repeat", code=2
    )


def test_a_fork_is_declared_as_its_parent_is_but_for_what_is_overridden(mixlake: Mixlake, folder: Path) -> None:
    mixlake("run", *OWN, "curriculum=mine", "name=trunk", "chunk_size=100", "length={chunks: 20}")
    mixlake("schedule", "run=trunk", "num_chunks=5")
    out = mixlake("fork", "run=trunk", "name=twin", "at_chunk=4")
    assert out == "started run twin, which goes on from trunk at chunk 4, over samples@1\n"
    mixlake("fork", "run=trunk", "name=branch", "at_chunk=2", "seed=8", "mixture.components.german.weight=5")
    mixlake("fork", "--config-dir", "my", "run=branch", "name=twig", "at_chunk=2", "mixture=mine", "version=newest")
    trunk, twin, branch, twig = (load(folder, name) for name in ("trunk", "twin", "branch", "twig"))
    assert (twin.config.mixture, twin.config.curriculum) == (trunk.config.mixture, trunk.config.curriculum)
    assert (branch.config.seed, branch.config.at_chunk, branch.config.length) == (8, 2, trunk.config.length)
    assert [run.name for run in twig.ancestors()] == ["branch", "trunk"]
    assert (twig.config.curriculum, twig.config.seed) == (None, 8)
    assert mixlake("schedule", "run=twig", "num_chunks=3").strip() == "3 chunks; the last one is 4"
    for arguments, message in (
        (["run=trunk", "at_chunk=17"], "at_chunk is 17; run 'trunk' is scheduled up to chunk 4"),
        (["run=trunk", "at_chunk=1", "chunk_size=3"], "there is no key 'chunk_size'"),
        (["run=trunk", "at_chunk=1", "length=null"], "length is null, but run 'trunk' has one"),
        (["run=trunk", "at_chunk=1", "version=new"], "version is 'new'; expected a number, or newest"),
        (["at_chunk=1"], "mixlake fork needs .*run=…"),
    ):
        assert re.search(message, mixlake("fork", "name=wrong", *arguments, code=2))
    assert "goes on from 'trunk'; fork that one" in mixlake("run", "--from", "twin", "name=wrong", code=2)


def test_a_process_follows_until_the_run_ends(mixlake: Mixlake) -> None:
    mixlake("run", *OWN, "name=short", "chunk_size=50", "length={chunks: 9}")
    assert mixlake("schedule", "run=short", "follow=true", "lookahead=20").strip() == (
        "9 chunks; the last one is 8, which ends the run"
    )
    assert "leave num_chunks out" in mixlake("schedule", "run=short", "follow=true", "num_chunks=3", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mixture.components.germn.weight=0.4"],
            r"there is no key 'mixture.components.germn.weight'; there are: german, code, rest.* mean 'german'\?",
        ),
        (["mixture.components.german.wieght=0.4"], r"wieght.*there are: where, weight.* Did you mean 'weight'\?"),
        (["mixture.components.code.components.short.weight=much"], r"short.weight is 'much'; expected a number"),
        (["chunk_sise=4"], r"there is no key 'chunk_sise'; there are: .* Did you mean 'chunk_size'\?"),
        (["chunk_size=many"], "chunk_size is 'many'; expected a whole number"),
        (["curriculum=mine", "curriculum.stages.second.weights.kode=0.6"], "kode"),
        (
            ["curriculum=mine", "curriculum.stages.first.until.chunks=null", "+curriculum.stages.first.until.epochs=3"],
            "first.until has no key 'epochs'; allowed: steps, chunks",
        ),
        (["+lanse=4"], r"mixlake explain has no key 'lanse'; there are: .* Did you mean 'lanes'\?"),
        (["mixture.unt=bytes"], r"mixture has no key 'unt'; allowed: .* Did you mean 'unit'\?"),
        (["mixture.components.german.max_pases=2"], r"there is no key .* Did you mean 'max_passes'\?"),
        (["curriculum=mine", "+curriculum.stages.first.untl.chunks=3"], r"first has no key 'untl'.* mean 'until'\?"),
        (["curriculum=mien"], r"there is no curriculum 'mien'; there are: mine, .* Did you mean 'mine'\?"),
        (["mixture=broken"], r"while parsing .*broken.yaml\", line 2"),
        (["mixture=inferred"], r"mixlake explain needs mixture.by=…"),
        (["shuffle=wiide"], r"there is no shuffle 'wiide'; there are: blocks, none, wide. Did you mean 'wide'\?"),
        (["scale=huge"], "there is no scale 'huge'; there are: large, small"),
        (["experiment=smolm"], r"there is no experiment 'smolm'.* Did you mean 'smollm'\?"),
        (["length={epochs: 3}"], "length has no key 'epochs'; allowed: steps, chunks"),
    ],
)
def test_a_typo_is_answered_with_its_path_and_what_there_is(
    mixlake: Mixlake, arguments: list[str], message: str
) -> None:
    error = mixlake("explain", *OWN, *arguments, code=2)
    assert re.search(message, error), error
    assert error.count("\n") == 1
