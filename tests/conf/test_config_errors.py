"""Whatever is misspelt or of a wrong type is answered with its path, what is allowed, and what is nearest to it."""

import re
from pathlib import Path

import pytest

from mixlake.catalog import ConfigError
from mixlake.conf import load_config

MIXTURE = """
unit: bytes
components:
  german: {where: language = 'de', weight: 1}
  code:
    where: kind = 'code'
    weight: 2
    components:
      short: {where: n < 50, weight: 1, order_by: {property: n}}
      long: {weight: 3}
"""
CURRICULUM = """
stages:
  stable: {until: {fraction: 0.7}}
  anneal:
    ramp: {over: {fraction: 0.1}, shape: cosine}
    mixture: {components: {math: {weight: 1}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    for group, text in (("mixture", MIXTURE), ("curriculum", CURRICULUM)):
        (folder / group).mkdir()
        (folder / group / "mine.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lanes=x", "lanes is 'x'; expected a whole number"),
        ("seed=1.5", "seed is 1.5; expected a whole number"),
        ("chunk_size=1e3", "chunk_size is 1000.0; expected a whole number: 1000"),
        ("lanes=null", "lanes is None; expected a whole number"),
        ("lanes=[1]", "lanes is [1]; expected a whole number"),
        ("lanes={a: 1}", "lanes is {'a': 1}; expected a whole number"),
        ("lanes=", "lanes is ''; expected a whole number"),
        ("tokenizer=[1]", "tokenizer is [1]; expected text, or null"),
        ("lanse=3", "there is no key 'lanse'; there are: .* Did you mean 'lanes'?"),
        ("+lanse=3", "mixlake run has no key 'lanse'; there are: .* Did you mean 'lanes'?"),
        ("mixure.unit=bytes", "there is no key 'mixure.unit'; there are: .* Did you mean 'mixture'?"),
        ("mixture=mien", "there is no mixture 'mien'; there are: .* Did you mean 'mine'?"),
        ("scale=smal", "there is no scale 'smal'; there are: large, small. Did you mean 'small'?"),
        ("shuffle=non", "there is no shuffle 'non'; there are: blocks, none, wide. Did you mean 'none'?"),
        ("mixture.unt=bytes", "mixture has no key 'unt'; allowed: .* Did you mean 'unit'?"),
        ("mixture.unit=byte", "mixture.unit is 'byte'; allowed: samples, bytes, tokens. Did you mean 'bytes'?"),
        ("mixture.kind=infered", "mixture.kind is 'infered'; allowed: .* Did you mean 'inferred'?"),
        ("mixture.floor=0.1", "mixture.floor is for kind: inferred, but mixture.kind is static"),
        ("mixture.filter=3", "mixture.filter: expected an SQL predicate, got 3"),
        ("mixture.shuffle.windw=4", "mixture.shuffle has no key 'windw'; allowed: window. Did you mean 'window'?"),
        ("mixture.on_exhausted=stopp", "mixture.on_exhausted is 'stopp'; allowed: stop, .* Did you mean 'stop'?"),
        ("mixture.components.germn.weight=1", "'mixture.components.germn.weight'; .* Did you mean 'german'?"),
        ("mixture.components.german.wieght=1", "there are: where, weight, .* Did you mean 'weight'?"),
        ("mixture.components.german.weight=1/3", "mixture.components.german.weight is '1/3'; expected a number"),
        ("mixture.components.german.weight=null", "mixture.components.german.weight is None; expected a number"),
        ("mixture.components.german.weight=-1", "german.weight is -1; expected a number from 0 to 1e+100"),
        ("mixture.components.german.weight=nan", "german.weight is nan; expected a number from 0 to 1e+100"),
        ("mixture.components.german.weight=true", "german.weight is True; expected a number"),
        ("mixture.components.code.components.shrt.weight=1", "there are: short, long. Did you mean 'short'?"),
        ("mixture.components.code.component.short.weight=1", "code.component.* Did you mean 'components'?"),
        ("mixture.components.code.components.short.order_by.bnds=3", "has no key 'bnds'.* Did you mean 'bands'?"),
        ("mixture.components.german.on_exhausted=repeet", "german.on_exhausted is 'repeet'.* Did you mean 'repeat'?"),
        ("mixture.components.german.max_passes=0", "german.max_passes is 0; expected a number of passes, 1 or more"),
        ("~mixture.components.germn", "there is no key 'mixture.components.germn'; .* Did you mean 'german'?"),
        ("curriculum.stages.stabel.until.fraction=0.5", "there are: stable, anneal. Did you mean 'stable'?"),
        ("curriculum.stages.stable.until.fracton=0.5", "until.fracton'; there are: .* Did you mean 'fraction'?"),
        ("curriculum.stages.stable.until.fraction=70", "until.fraction is 70; expected a number from 0 to 1"),
        ("curriculum.stages.anneal.ramp.shape=cosinus", "ramp.shape is 'cosinus'; allowed: .* mean 'cosine'?"),
        ("curriculum.stages.anneal.ramp.chnges=3", "there are: over, shape, changes. Did you mean 'changes'?"),
        (
            "curriculum.stages.stable.weights.german=1",
            "there is no key 'curriculum.stages.stable.weights.german' in the config; + adds it: "
            "+curriculum.stages.stable.weights.german=…",
        ),
        ("+curriculum.stages.stable.weigts.german=1", "stable has no key 'weigts'; .* Did you mean 'weights'?"),
        ("seed=${sead}", "seed: Interpolation key 'sead' not found"),
        ("seed", "'seed' is no override; expected key=value, with a key of: .*seed"),
        ("=3", "'=3' is no override; expected key=value"),
        ("--config-dr=my", "there is no flag '--config-dr'; there are: .* Did you mean '--config-dir'?"),
    ],
)
def test_a_wrong_override_is_answered(folder: Path, override: str, message: str) -> None:
    pattern = ".*".join(map(re.escape, message.split(".*")))
    group = override.partition("=")[0]
    given = [choice for choice in ("mixture=mine", "curriculum=mine") if choice.partition("=")[0] != group]
    with pytest.raises(ConfigError, match=pattern) as caught:
        load_config(*given, "length={bytes: 9000}", override, config_dir=folder)
    assert "\n" not in str(caught.value)
    assert "Error merging" not in str(caught.value)


def test_no_mixture_or_file_is_answered_too(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"choose a mixture, mixture=NAME; there are: everything, .*mine"):
        load_config(config_dir=folder)
    (folder / "mixture" / "broken.yaml").write_text("components:\n  a: {where: x weight: 1\n")
    with pytest.raises(ConfigError, match=r"while parsing .*broken.yaml\", line 2"):
        load_config("mixture=broken", config_dir=folder)


def test_a_wrong_key_in_a_file_is_answered_as_one_in_an_override(folder: Path) -> None:
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nchunk_sise: 3\n")
    with pytest.raises(ConfigError, match=r"there is no key 'chunk_sise'; there are: .* Did you mean 'chunk_size'\?"):
        load_config("mixture=mine", "experiment=mine", config_dir=folder)
