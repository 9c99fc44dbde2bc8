"""Every mixture, curriculum and experiment of conf/ composes, and is explained over samples that fit it."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mixlake.catalog import Catalog
from mixlake.conf import load_config
from mixlake.conf.composed import instance, plain, read_mixture, read_settings
from mixlake.conf.schema import SCHEMAS, store_schemas
from mixlake.mixing import Explanation, Run, explain

CONF = Path(str(sys.modules["mixlake.conf"].__path__[0]))
LENGTH = "length={bytes: 4000}"
DECAY = "mixture@curriculum.stages.decay.mixture"

NEEDED = {
    "everything": ["length={samples: 20}"],
    "inferred": ["mixture.by=[source,kind]", "length={samples: 20}"],
    "unimax": ["mixture.by=kind", "mixture.unimax.budget=40", "length={samples: 40}"],
}
"""By mixture, what it leaves to whoever chooses it."""


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A lake of samples from every source that a config names, and of every kind that the demo's mixture asks for."""
    folder = tmp_path_factory.mktemp("sources")
    text = "\n".join(path.read_text(encoding="utf-8") for path in (CONF / "mixture").glob("*.yaml"))
    sources = sorted(set(re.findall(r"source = '(.+?)'", text)))
    kinds = [("source", "py"), ("source", "c"), ("stub", "pyi"), ("prose", "md"), ("licence", "txt")]
    records: list[dict[str, Any]] = [{"text": "x" * (150 + n), "source": s} for s in sources for n in range(5)]
    records += [{"text": "x" * 200, "kind": kind, "extension": extension} for kind, extension in kinds]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, records)))
    catalog = Catalog.create(str(folder / "lake"))
    properties = {name: name for name in ("source", "kind", "extension")} | {"num_bytes": "octet_length(text)"}
    catalog.register("all", str(folder / "all.jsonl"), properties=properties)
    return catalog


@pytest.fixture
def explained(catalog: Catalog) -> Iterator[Callable[..., Explanation]]:
    store_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_module(version_base="1.3", config_module="mixlake.conf"):

        def run(*overrides: str) -> Explanation:
            config = compose("explain", [f"lake={catalog.lake.uri}", *overrides])
            json.dumps(plain(config))
            return explain(catalog, read_mixture(config), **read_settings(config))

        yield run


@pytest.mark.parametrize("name", names("mixture"))
def test_a_mixture_is_explained(explained: Callable[..., Explanation], name: str) -> None:
    found = explained(f"mixture={name}", *NEEDED.get(name, [LENGTH]))
    assert sum(component.share for component in found.components) == pytest.approx(1)
    assert str(found).startswith("mixture over samples@1")


@pytest.mark.parametrize("name", names("curriculum"))
def test_a_curriculum_is_explained(explained: Callable[..., Explanation], name: str) -> None:
    decay = [f"{DECAY}=smollm_decay"] if name == "wsd" else []
    found = explained("mixture=smollm_stable", f"curriculum={name}", *decay, LENGTH, "chunk_size=2")
    assert len(found.forecast.stages) == (1 if name == "none" else 2)
    assert all(stage.num_units for stage in found.forecast.stages)


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_is_explained(explained: Callable[..., Explanation], name: str) -> None:
    assert explained(f"experiment={name}").forecast.stages


@pytest.mark.parametrize("name", names("shuffle"))
def test_shuffling_is_chosen_by_name(explained: Callable[..., Explanation], name: str) -> None:
    found = explained("mixture=pile_natural", f"shuffle={name}")
    assert found.locality.neighbour_distance >= 1


@pytest.mark.parametrize("name", names("scale"))
def test_a_scale_is_chosen_by_name(explained: Callable[..., Explanation], name: str) -> None:
    assert explained("mixture=pile_natural", f"scale={name}").components


@pytest.mark.parametrize("name", ["none", *(name for name in names("adapt") if name != "none")])
def test_what_adapts_weights_is_composed_for_a_run(catalog: Catalog, name: str) -> None:
    found = load_config("mixture=everything", f"adapt={name}")
    run = Run.start(catalog, f"adapted-{name}", **found)
    assert (run.config.adapt is None) == (name == "none")


@pytest.mark.parametrize("name", names("adapt/short"))
@pytest.mark.usefixtures("explained")
def test_what_adapts_weights_of_short_runs_is_composed_for_the_demo(name: str) -> None:
    long, short = (plain(compose("demo", [f"adapt={name}", *more]).adapt) for more in (["~adapt/short@adapt"], []))
    assert long["policy"]["_target_"] == short["policy"]["_target_"]
    assert long["interval"] > short["interval"]


@pytest.mark.parametrize("name", names("fit"))
@pytest.mark.usefixtures("explained")
def test_a_law_is_composed_and_fits(name: str) -> None:
    law = instance(plain(compose("fit-mixture", ["mixture=everything", f"fit={name}", "into=x"]).fit.law))
    mixtures = np.random.default_rng(0).dirichlet(np.ones(2), 12)
    assert law.fit(mixtures, mixtures @ [1.0, 2.0]).predict(mixtures) == pytest.approx(mixtures @ [1.0, 2.0], abs=0.05)


def test_every_config_is_one_of_a_command_or_of_a_group_that_is_tested() -> None:
    tested = {"mixture", "curriculum", "experiment", "shuffle", "scale", "adapt", "adapt/short", "fit"}
    tested.add("dataset")  # by test_dataset_configs, with data
    found = {path.relative_to(CONF).parent.as_posix(): path for path in CONF.rglob("*.yaml")}
    assert set(found) == {".", *tested}
    assert {path.stem for path in CONF.glob("*.yaml")} == set(SCHEMAS)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@pytest.mark.usefixtures("explained")
def test_a_command_is_composed_with_every_key_of_its_schema(name: str) -> None:
    config = compose(name, ["mixture=everything"] if "mixture" in (f.name for f in fields(SCHEMAS[name])) else [])
    assert set(config) == {field.name for field in fields(SCHEMAS[name])}


# Raw size in GiB and epochs, Gao et al. 2020, arXiv 2101.00027, table 1.
PILE = {
    "pile_cc": (227.12, 1.0),
    "pubmed_central": (90.27, 2.0),
    "books3": (100.96, 1.5),
    "openwebtext2": (62.77, 2.0),
    "arxiv": (56.21, 2.0),
    "github": (95.16, 1.0),
    "freelaw": (51.15, 1.5),
    "stackexchange": (32.20, 2.0),
    "uspto": (22.90, 2.0),
    "pubmed_abstracts": (19.26, 2.0),
    "gutenberg": (10.88, 2.5),
    "opensubtitles": (12.98, 1.5),
    "wikipedia": (6.38, 3.0),
    "dm_mathematics": (7.75, 2.0),
    "ubuntu_irc": (5.52, 2.0),
    "bookcorpus2": (6.30, 1.5),
    "europarl": (4.59, 2.0),
    "hackernews": (3.90, 2.0),
    "youtube_subtitles": (3.73, 2.0),
    "philpapers": (2.38, 2.0),
    "nih_exporter": (1.89, 2.0),
    "enron": (0.88, 2.0),
}


def weights_of(name: str) -> dict[str, float]:
    return {component.name: component.weight for component in load_config(f"mixture={name}")["mixture"].components}


def test_the_piles_default_weights_are_its_raw_sizes_times_its_epochs() -> None:
    total = sum(size * epochs for size, epochs in PILE.values())
    expected = {name: 100 * size * epochs / total for name, (size, epochs) in PILE.items()}
    assert weights_of("pile_default") == pytest.approx(expected, abs=0.01)
    assert list(weights_of("pile_doremi")) == list(expected)


def test_annealing_mixtures_sum_to_what_was_published() -> None:
    assert sum(weights_of("olmo2_midtraining").values()) == pytest.approx(100.01)
    stable, decay = weights_of("smollm_stable"), weights_of("smollm_decay")
    assert sum(stable.values()) == pytest.approx(1)
    assert decay["fineweb_edu"] + decay["dclm"] == pytest.approx(0.58)
    assert sum(decay.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", [name for name in names("mixture") if name.startswith(("pile_d", "slim", "llama"))])
def test_published_weights_are_those_of_all_sources_of_their_data(name: str) -> None:
    text = (CONF / "mixture" / f"{name}.yaml").read_text(encoding="utf-8")
    weights = [float(weight) for weight in re.findall(r"weight: ([0-9.]+)\}", text)]
    assert sum(weights) == pytest.approx(1 if name == "pile_doremi" else 100, rel=2e-3)
    assert len(weights) == (22 if name.startswith("pile") else 7)


def test_a_run_stores_what_it_was_composed_from(catalog: Catalog) -> None:
    run = Run.start(catalog, "exp1", {"kind": "inferred", "by": "kind"}, composed={"mixture": {"kind": "inferred"}})
    assert Run.load(catalog, run.name).config.composed == {"mixture": {"kind": "inferred"}}
