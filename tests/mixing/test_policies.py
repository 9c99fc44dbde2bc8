import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.catalog import ConfigError
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_average import AverageLoss
from mixlake.mixing.policy_bandit import OnlineDataMixing
from mixlake.mixing.policy_bounded import Bounded, Bounds, nearer
from mixlake.mixing.policy_exponentiated import ExcessLoss, ExponentiatedWeights, SkillGraph

NAMES = ("web", "code", "math")
PRIOR = np.array([0.5, 0.3, 0.2])
SETTING = Setting(components=NAMES, prior=PRIOR)
POLICIES: dict[str, Callable[[], Policy]] = {
    "average": lambda: AverageLoss(SETTING),
    "bandit": lambda: OnlineDataMixing(SETTING),
    "averaging bandit": lambda: OnlineDataMixing(SETTING, moving_average=0.9),
    "scores": lambda: ExponentiatedWeights(SETTING, rate=0.1),
    "excess": lambda: ExcessLoss(SETTING, reference={"web": 2.0, "code": 1.0, "math": 3.0}),
    "skills": lambda: SkillGraph(SETTING, graph={"web": {"math": 0.5}, "code": {"code": 1.0}, "math": {"math": 1.0}}),
    "bounded": lambda: Bounded(SETTING, policy=OnlineDataMixing(SETTING), bounds=Bounds(floor=0.1, cap=0.6)),
}
simplex = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda w: sum(w) > 1e-3)


def reports(num: int, seed: int = 0) -> list[tuple[int, np.ndarray, np.ndarray, int]]:
    rng = np.random.default_rng(seed)
    steps = []
    for step in range(num):
        tokens = rng.integers(0, 3, 3) * 64
        steps.append((step, tokens * rng.uniform(1, 5, 3), tokens, 1))
    return steps


@pytest.mark.parametrize("name", POLICIES)
def test_weights_are_shares(name: str) -> None:
    policy = POLICIES[name]()
    given_weights = [weights for report in reports(50) if (weights := policy.update(*report)) is not None]
    assert given_weights
    for weights in given_weights:
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_goes_on_from_its_state_to_the_bit(name: str) -> None:
    whole, first, second = (POLICIES[name]() for _ in range(3))
    expected = [whole.update(*report) for report in reports(40)]
    for report in reports(40)[:17]:
        first.update(*report)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for report, weights in list(zip(reports(40), expected, strict=True))[17:]:
        again = second.update(*report)
        assert (None if again is None else again.tolist()) == (None if weights is None else weights.tolist())
    assert second.details() == whole.details()
    assert json.loads(json.dumps(whole.details())) == whole.details()


def test_what_has_no_declared_share_is_never_given_one() -> None:
    setting = Setting(components=NAMES, prior=np.array([0.6, 0.4, 0.0]))
    for policy in (
        AverageLoss(setting),
        OnlineDataMixing(setting),
        ExponentiatedWeights(setting),
        Bounded(setting, policy=AverageLoss(setting), bounds=Bounds(floor=0.1)),
    ):
        for report in reports(20):
            weights = policy.update(*report)
        assert weights is not None
        assert weights[2] == 0


def test_the_bandit_is_exp3_as_the_paper_writes_it() -> None:
    policy = OnlineDataMixing(SETTING, reward_scale=0.1)
    rewards, shares = [0.0] * 3, PRIOR.tolist()
    for time, (step, loss_sum, tokens, version) in enumerate(reports(30), start=1):
        for k in range(3):
            if tokens[k]:
                rewards[k] += 0.1 * loss_sum[k] / tokens[k] / shares[k]
        now, before = (min(1 / 3, math.sqrt(math.log(3) / (3 * t))) if t else 1 / 3 for t in (time, time - 1))
        powers = [math.exp(before * reward) for reward in rewards]
        shares = [(1 - 3 * now) * power / sum(powers) + now for power in powers]
        assert policy.update(step, loss_sum, tokens, version) == pytest.approx(shares, abs=1e-12)


def test_the_averaging_bandit_has_moving_averages_of_what_was_seen() -> None:
    policy = OnlineDataMixing(SETTING, reward_scale=0.1, moving_average=0.9)
    rewards, shares = [0.0] * 3, PRIOR.tolist()
    time = 0
    for step, loss_sum, tokens, version in reports(30):
        if not tokens.any():
            assert policy.update(step, loss_sum, tokens, version) is None
            continue
        time += 1
        for k in range(3):
            if tokens[k]:
                rewards[k] = 0.9 * rewards[k] + 0.1 * 0.1 * loss_sum[k] / tokens[k] / shares[k]
        now, before = (min(1 / 3, math.sqrt(math.log(3) / (3 * t))) if t else 1 / 3 for t in (time, time - 1))
        powers = [math.exp(before * reward) for reward in rewards]
        shares = [(1 - 3 * now) * power / sum(powers) + now for power in powers]
        assert policy.update(step, loss_sum, tokens, version) == pytest.approx(shares, abs=1e-12)


def test_average_losses_are_sums_over_counts_and_what_is_unseen_keeps_its_prior() -> None:
    policy = AverageLoss(SETTING)
    sums, counts = [0.0] * 3, [0] * 3
    for step, loss_sum, tokens, version in reports(30, seed=3):
        sums = [total + new for total, new in zip(sums, loss_sum, strict=True)]
        counts = [total + int(new) for total, new in zip(counts, tokens, strict=True)]
        seen = {k: sums[k] / counts[k] for k in range(3) if counts[k]}
        left = 1 - sum(PRIOR[k] for k in range(3) if k not in seen)
        expected = [left * seen[k] / sum(seen.values()) if k in seen else PRIOR[k] for k in range(3)]
        assert policy.update(step, loss_sum, tokens, version) == pytest.approx(expected, abs=1e-12)


def test_scores_from_outside_are_exponents_and_their_mean_weights_are_told() -> None:
    policy = ExponentiatedWeights(SETTING, rate=0.3, smoothing=0.1)
    weights, given = PRIOR.tolist(), []
    for step, loss_sum, tokens, version in reports(30, seed=4):
        if not tokens.any():
            continue
        scores = [loss_sum[k] / tokens[k] if tokens[k] else 0.0 for k in range(3)]
        powers = [weight * math.exp(0.3 * score) for weight, score in zip(weights, scores, strict=True)]
        weights = [power / sum(powers) for power in powers]
        given.append([0.9 * weight + 0.1 / 3 for weight in weights])
        assert policy.update(step, loss_sum, tokens, version) == pytest.approx(given[-1], abs=1e-12)
    told = [row["mean_weight"] for row in policy.details().values()]
    assert told == pytest.approx(np.mean(given, axis=0), abs=1e-12)


def test_excess_loss_is_what_is_above_the_reference() -> None:
    reference = {"web": 2.0, "code": 1.0, "math": 3.0}
    policy = ExcessLoss(SETTING, reference=reference, rate=0.5, smoothing=0.01)
    weights = PRIOR.tolist()
    for step, loss_sum, tokens, version in reports(30):
        if not tokens.any():
            continue
        excess = [max(loss_sum[k] / tokens[k] - reference[n], 0) if tokens[k] else 0 for k, n in enumerate(NAMES)]
        powers = [weight * math.exp(0.5 * score) for weight, score in zip(weights, excess, strict=True)]
        weights = [power / sum(powers) for power in powers]
        expected = [0.99 * weight + 0.01 / 3 for weight in weights]
        assert policy.update(step, loss_sum, tokens, version) == pytest.approx(expected, abs=1e-12)


def test_a_skill_graph_weighs_the_losses_that_a_component_lowers() -> None:
    policy = SkillGraph(SETTING, graph={"web": {"math": 1.0}, "code": {}, "math": {}}, window=2, rate=0.2)
    tokens = np.array([1, 1, 1])
    policy.update(0, np.array([9.0, 9.0, 1.0]), tokens, 1)
    weights = policy.update(1, np.array([9.0, 9.0, 2.0]), tokens, 1)
    powers = np.array([0.5 * math.exp(0.2 * 1.0 + 0.2 * 3.0), 0.3, 0.2])
    assert weights == pytest.approx(powers / powers.sum())


@given(old=simplex, new=simplex, most=st.floats(0.01, 1))
def test_one_change_goes_no_further_than_allowed(old: list[float], new: list[float], most: float) -> None:
    num = min(len(old), len(new))
    a, b = (np.array(w[:num]) + 0.01 for w in (old, new))
    a, b = a / a.sum(), b / b.sum()
    moved = nearer(a, b, most)
    assert np.abs(moved - a).sum() / 2 <= most + 1e-12
    assert np.abs(moved - b).sum() <= np.abs(a - b).sum() + 1e-12


def test_weights_hold_while_it_warms_up_and_when_they_are_frozen() -> None:
    policy = Bounded(SETTING, policy=AverageLoss(SETTING), bounds=Bounds(warm_up_steps=10, freeze_step=20))
    changed = [report[0] for report in reports(30) if policy.update(*report) is not None]
    assert changed == list(range(10, 20))


@pytest.mark.parametrize("bounds", [{"floor": 0.4}, {"cap": 0.3}, {"floor": 0.5, "cap": 0.2}])
def test_bounds_that_nothing_can_hold_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="floor"):
        Bounded(SETTING, policy=AverageLoss(SETTING), bounds=Bounds(**bounds))


def test_a_state_of_another_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy state has \['loss_sum', 'num_tokens'\]; a BanditState has"):
        OnlineDataMixing(SETTING).load_state_dict(AverageLoss(SETTING).state_dict())


def test_an_unknown_component_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"reference: unknown component 'cod'.*code"):
        ExcessLoss(SETTING, reference={"cod": 1.0})
