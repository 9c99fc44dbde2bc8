"""Every mixture, curriculum and experiment of conf/ composes, and is explained over samples that fit it."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mixlake.catalog import Catalog
from mixlake.conf.composed import plain, read_mixture, read_settings
from mixlake.conf.schema import store_schemas
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
    assert len(found.forecast.stages) == 2
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


@pytest.mark.parametrize("name", [name for name in names("mixture") if name.startswith(("pile_d", "slim", "llama"))])
def test_published_weights_are_those_of_all_sources_of_their_data(name: str) -> None:
    text = (CONF / "mixture" / f"{name}.yaml").read_text(encoding="utf-8")
    weights = [float(weight) for weight in re.findall(r"weight: ([0-9.]+)\}", text)]
    assert sum(weights) == pytest.approx(1 if name == "pile_doremi" else 100, rel=2e-3)
    assert len(weights) == (22 if name.startswith("pile") else 7)


def test_a_run_stores_what_it_was_composed_from(catalog: Catalog) -> None:
    run = Run.start(catalog, "exp1", {"kind": "inferred", "by": "kind"}, composed={"mixture": {"kind": "inferred"}})
    assert Run.load(catalog, run.name).config.composed == {"mixture": {"kind": "inferred"}}
