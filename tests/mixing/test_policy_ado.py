import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.signal import savgol_filter

from mixlake.catalog import ConfigError
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import fit_laws
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_ado import Ado
from mixlake.mixing.policy_ado_published import VARIANTS, AuthorsAdo, MixteraAdo

PRIOR = np.array([0.5, 0.3, 0.2])
SETTING = Setting(components=("web", "code", "math"), prior=PRIOR)
LENGTH = 64
POLICIES: dict[str, Callable[[Setting], Policy]] = {
    "exact": lambda setting: Ado(setting, ignore_steps=20, start_step=150, interval=50),
    "authors": lambda setting: AuthorsAdo(
        setting, ignore_steps=20, start_step=150, interval=50, sequence_length=LENGTH
    ),
    **{
        name: lambda setting, name=name: MixteraAdo(  # type: ignore[misc]
            setting, variant=name, ignore_steps=20, start_step=150, interval=50, sequence_length=LENGTH
        )
        for name in VARIANTS
    },
}
Report = tuple[int, FloatArray, np.ndarray, int]


def reports(num: int, *, shares: FloatArray = PRIOR, seed: int = 0, per_step: int = 16) -> Iterator[Report]:
    """Steps whose losses follow laws of the tokens of all components, with noise; a version lasts 37 steps."""
    rng = np.random.default_rng(seed)
    count = len(shares)
    epsilon, beta, alpha = rng.uniform(1.7, 2.5, count), rng.uniform(2, 9, count), rng.uniform(0.1, 0.5, count)
    for step in range(num):
        tokens = rng.multinomial(per_step, shares) * LENGTH
        losses = epsilon + beta * ((step + 1) * per_step) ** -alpha + 0.02 * rng.standard_normal(count)
        yield step, losses * tokens, tokens, 1 + step // 37


def fitted(losses: FloatArray, counts: FloatArray, first: int) -> FloatArray:
    window = min(101, len(losses)) - (1 - min(101, len(losses)) % 2)
    smooth = savgol_filter(losses, window, 3, axis=0)[first::10].T
    return fit_laws(counts[first::10].T, smooth, np.ones_like(smooth)).theta


def authors_weights(steps: list[Report]) -> list[FloatArray | None]:
    """The authors' loop, written down step by step."""
    history = average = PRIOR
    theta, losses, counts = None, np.zeros((0, 3)), np.zeros((0, 3))
    given: list[FloatArray | None] = []
    for itr, (_, loss_sum, tokens, _) in enumerate(steps):
        increment = np.full((1, 3), tokens.sum() / LENGTH)
        counts = np.concatenate([counts, counts[-1:] + increment if itr else increment])
        history = 0.9 * history + 0.1 * tokens / tokens.sum()
        fill = losses[-1] if itr else np.full(3, loss_sum.sum() / tokens.sum())
        row = [loss_sum[k] / tokens[k] if tokens[k] else fill[k] for k in range(3)]
        losses = np.concatenate([losses, np.array(row)[None]])
        if itr >= 150 and itr % 50 == 0:
            theta = fitted(losses, counts, 20)
        if theta is None:
            given.append(None)
            continue
        a, _, alpha = theta.T
        slope = np.maximum(alpha, 0.05) * np.exp(a) * counts[-1] ** -alpha / counts[-1]
        rho = slope * PRIOR * history**0.5
        rho = np.maximum(rho / rho.sum(), 0.01)
        rho = rho / rho.sum()
        given.append(0.9 * average + 0.1 * rho)
        average = (1 - 1 / (itr + 1)) * average + rho / (itr + 1)
    return given


def mixtera_weights(steps: list[Report], variant: str) -> list[FloatArray | None]:
    """Mixtera's loop, written down step by step, from 1; every component is in the first step."""
    credit = average = PRIOR
    theta, losses, counts = np.zeros((3, 3)), np.zeros((0, 3)), np.zeros((0, 3))
    last_version, last_update, next_turn = 1, 0, -1
    given: list[FloatArray | None] = []
    for t, (_, loss_sum, tokens, version) in enumerate(steps, start=1):
        arrived, last_version = version != last_version, version
        counts = np.concatenate([counts, (counts[-1:] if t > 1 else 0) + np.full((1, 3), tokens.sum() / LENGTH)])
        row = [loss_sum[k] / tokens[k] if tokens[k] else losses[-1, k] for k in range(3)]
        losses = np.concatenate([losses, np.array(row)[None]])
        is_fit = t >= 150 and (t - 150) % 50 == 0
        if is_fit:
            theta = fitted(losses, counts, 21)
        if variant == "adjusted_v3" and t > 150:
            next_turn = t + 15 if arrived else next_turn
        if t < 150 or (variant == "adjusted_v3" and t > 150 and not is_fit and t != next_turn):
            given.append(None)
            continue
        a, _, alpha = theta.T
        rho = PRIOR * credit**0.5 * alpha * np.exp(a) * counts[-1] ** -alpha / counts[-1]
        rho = rho / rho.sum()
        pi = np.maximum(0.1 * rho + 0.9 * average, 0.01)
        pi = pi / pi.sum()
        gamma = 0.1
        if variant == "adjusted_v2":
            gamma = 1 - 0.9 ** (t - last_update)
        if arrived or variant in ("vanilla", "adjusted_v3"):
            credit, last_update = gamma * pi + (1 - gamma) * credit, t
        average = rho / (t + 1) + (1 - 1 / (t + 1)) * average
        given.append(pi)
    return given


def assert_same(policy: Policy, steps: list[Report], expected: list[FloatArray | None]) -> None:
    changed = 0
    for report, weights in zip(steps, expected, strict=True):
        given = policy.update(*report)
        assert (given is None) == (weights is None)
        if given is not None and weights is not None:
            assert np.abs(given - weights).max() < 1e-6  # smoothing rounds otherwise, and a fit feels it
            changed += 1
    assert changed > 1


def test_the_authors_rules_are_those_of_their_loop() -> None:
    steps = list(reports(320))
    assert_same(POLICIES["authors"](SETTING), steps, authors_weights(steps))


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixteras_rules_are_those_of_its_loop(variant: str) -> None:
    steps = list(reports(320, seed=1))
    assert (steps[0][2] > 0).all()
    assert_same(POLICIES[variant](SETTING), steps, mixtera_weights(steps, variant))


@pytest.mark.parametrize("name", POLICIES)
def test_ado_goes_on_from_its_state_to_the_bit(name: str) -> None:
    steps = list(reports(260))
    whole, first = POLICIES[name](SETTING), POLICIES[name](SETTING)
    expected = [whole.update(*report) for report in steps]
    for report in steps[:170]:
        first.update(*report)
    second = POLICIES[name](SETTING)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for report, weights in list(zip(steps, expected, strict=True))[170:]:
        again = second.update(*report)
        assert (None if again is None else again.tobytes()) == (None if weights is None else weights.tobytes())
    assert json.loads(json.dumps(second.details(), allow_nan=False)) == whole.details()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("num", [3, 7, 22])
def test_a_closed_loop_keeps_shares_and_moves_towards_what_is_learned_fastest(name: str, num: int) -> None:
    prior = np.full(num, 1 / num)
    policy = POLICIES[name](Setting(components=tuple(f"c{k}" for k in range(num)), prior=prior))
    rng = np.random.default_rng(num)
    alpha = np.where(np.arange(num) == 0, 0.3, 0.05)  # with the same loss to lose, the first one is learned fastest
    shares, total = prior, 0
    for step in range(400):
        tokens = rng.multinomial(128, shares) * LENGTH
        total += 128
        losses = 2.0 + np.where(np.arange(num) == 0, 8.0, 1.0) * total**-alpha + 0.005 * rng.standard_normal(num)
        weights = policy.update(step, losses * tokens, tokens, 1)
        if weights is not None:
            shares = weights
            assert shares.sum() == pytest.approx(1)
            assert (shares > 0).all()
    assert shares.argmax() == 0
    assert shares[0] > 1.02 / num


def test_a_component_of_low_loss_goes_on_learning_where_the_published_floor_starves_it() -> None:
    prior = np.full(2, 0.5)
    setting = Setting(components=("low", "high"), prior=prior)
    exact, authors = POLICIES["exact"](setting), POLICIES["authors"](setting)
    for step in range(400):
        tokens = np.array([8, 8]) * LENGTH
        n = (step + 1) * 16.0
        losses = np.array([0.3 + 2.0 * n**-0.3, 2.0 + 2.0 * n**-0.3])
        for policy in (exact, authors):
            policy.update(step, losses * tokens, tokens, 1)
    assert exact.details()["low"]["preference"] == pytest.approx(0.5, abs=0.02)
    assert authors.details()["low"]["preference"] < 0.02


def test_a_component_that_appears_later_is_like_the_others_until_it_has_a_law() -> None:
    policy = POLICIES["exact"](SETTING)
    for step, loss_sum, tokens, version in reports(330):
        is_there = np.array([True, True, step >= 230])
        weights = policy.update(step, loss_sum * is_there, tokens * is_there, version)
        if step == 220:
            assert weights is not None
            assert weights[2] > 0.05
            assert policy.details()["math"]["alpha"] is None
    assert policy.details()["math"]["alpha"] is not None


def test_an_exhausted_component_is_left_the_floor_and_what_repeats_is_worth_less() -> None:
    sizes = np.array([1e9, 1e3, 1e9])  # the second one is repeated some hundred times
    setting = Setting(components=("web", "code", "math"), prior=PRIOR, tokens_per_pass=sizes)
    policy, unaware = POLICIES["exact"](setting), POLICIES["exact"](SETTING)
    for step, loss_sum, tokens, version in reports(300):
        is_there = np.array([step < 160, True, True])
        policy.update(step, loss_sum * is_there, tokens * is_there, version)
        unaware.update(step, loss_sum * is_there, tokens * is_there, version)
    assert policy.details()["web"]["preference"] == 0
    assert unaware.details()["code"]["preference"] > 0.1
    assert policy.details()["code"]["preference"] < 0.01


def test_what_has_no_declared_share_is_never_given_one() -> None:
    setting = Setting(components=("web", "code", "math"), prior=np.array([0.6, 0.4, 0.0]))
    for make in POLICIES.values():
        policy = make(setting)
        given = [policy.update(*report) for report in reports(200, shares=setting.prior)]
        assert [weights[2] for weights in given if weights is not None] == [0.0] * sum(w is not None for w in given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ado(SETTING, ignore_steps=5, start_step=5), "ignore_steps is 5"),
        (lambda: Ado(SETTING, floor=1.0), "floor is 1.0"),
        (lambda: MixteraAdo(SETTING, variant="v4"), "variant is 'v4'"),
        (lambda: MixteraAdo(SETTING, ignore_steps=1000), "start_step is 1000; expected more than"),
        (lambda: AuthorsAdo(SETTING, interval=0), "interval is 0"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
