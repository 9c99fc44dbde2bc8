"""Policies in a loop with training that follows known laws: what they give is what the rules give with those laws.

The rules are written down once more here, from the equations, and know the laws; a policy has to find them in losses
that are noisy, of batches that are drawn by the weights that it gave.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import fit_laws
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_ado import Ado
from mixlake.mixing.policy_ado_published import AuthorsAdo, MixteraAdo

LENGTH, PER_STEP = 64, 128
STEPS: dict[str, Any] = {"ignore_steps": 20, "start_step": 100, "interval": 50}


@dataclass(frozen=True, kw_only=True)
class World:
    """Losses of K components as laws of all sequences seen so far, with noise of single tokens' size."""

    epsilon: FloatArray
    beta: FloatArray
    alpha: FloatArray
    noise: float = 0.01
    """Of a sequence's mean loss, standard deviation in nats."""

    @classmethod
    def random(cls, num: int, seed: int = 0) -> "World":
        rng = np.random.default_rng(seed)
        return cls(epsilon=rng.uniform(1.8, 2.4, num), beta=rng.uniform(2, 9, num), alpha=rng.uniform(0.1, 0.5, num))

    def losses(self, total: float, sequences: np.ndarray, rng: np.random.Generator) -> FloatArray:
        noise = self.noise * rng.standard_normal(len(self.alpha)) / np.sqrt(np.maximum(sequences, 1))
        result: FloatArray = self.epsilon + self.beta * total**-self.alpha + noise
        return result

    def speeds(self, total: float) -> FloatArray:
        """-dL/d log n."""
        result: FloatArray = self.alpha * self.beta * total**-self.alpha
        return result


def floored(shares: FloatArray, floor: float) -> FloatArray:
    """What is below the floor is lifted to it, and the rest scaled down, again and again until all is above."""
    low = np.zeros(len(shares), bool)
    while True:
        rest = shares * ~low
        result = np.where(low, floor, rest * (1 - floor * low.sum()) / rest.sum())
        if not (result < floor - 1e-15)[~low].any():
            return result
        low |= result < floor


@dataclass
class Rules:
    """ADO with speeds that are known: ρ ∝ μ h^½ (-dL/dn), π = 0.1 ρ + 0.9 π̄, with the averages h and π̄."""

    prior: FloatArray
    floor: float = 0.01
    step: int = 0
    credit: FloatArray = field(init=False)
    average: FloatArray = field(init=False)
    rho: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.credit = self.average = self.rho = self.prior

    def see(self, tokens: np.ndarray) -> None:
        self.step += 1
        self.credit = 0.9 * self.credit + 0.1 * tokens / tokens.sum()

    def weights(self, speeds: FloatArray) -> FloatArray:
        rho = self.prior * np.sqrt(np.maximum(self.credit, 1e-3 * self.prior)) * speeds
        self.rho = rho / rho.sum()
        weights = floored(0.1 * self.rho + 0.9 * self.average, self.floor)
        self.average = self.average + (self.rho - self.average) / (self.step + 1)
        return weights


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a loop: who was there, what was drawn and lost, and what the policy made of it."""

    number: int
    total: float
    """Sequences so far."""
    tokens: np.ndarray
    loss_sum: FloatArray
    weights: FloatArray | None


def loop(
    policy: Policy,
    world: World,
    prior: FloatArray,
    num: int,
    *,
    is_there: Callable[[int], np.ndarray] | None = None,
    seed: int = 0,
) -> list[Step]:
    """Train for some steps: batches by the policy's weights, of the components that are there."""
    rng = np.random.default_rng(seed)
    shares, total, steps = prior, 0.0, []
    for number in range(num):
        present = shares if is_there is None else shares * is_there(number)
        sequences = rng.multinomial(PER_STEP, present / present.sum())
        total += PER_STEP
        tokens = sequences * LENGTH
        loss_sum = world.losses(total, sequences, rng) * tokens
        weights = policy.update(number, loss_sum, tokens, 1)
        shares = shares if weights is None else weights
        steps.append(Step(number=number, total=total, tokens=tokens, loss_sum=loss_sum, weights=weights))
    return steps


def setting(prior: FloatArray, sizes: FloatArray | None = None) -> Setting:
    return Setting(components=tuple(f"c{k}" for k in range(len(prior))), prior=prior, tokens_per_pass=sizes)


def told(policy: Policy, key: str) -> FloatArray:
    """A column of the policy's details."""
    return np.array([np.nan if row[key] is None else row[key] for row in policy.details().values()], float)


def distance(one: FloatArray, other: FloatArray) -> float:
    """Total variation."""
    return float(np.abs(one - other).sum()) / 2


@pytest.mark.parametrize("num", [3, 7, 22])
@pytest.mark.parametrize("shrink", [True, False])
def test_weights_are_near_those_that_the_true_laws_give(num: int, shrink: bool) -> None:
    world, prior = World.random(num, seed=num), np.full(num, 1 / num)
    rules, policy = Rules(prior), Ado(setting(prior), **STEPS, shrink=shrink)
    gaps = []
    for step in loop(policy, world, prior, 500):
        rules.see(step.tokens)
        if step.weights is not None:
            gaps.append(distance(step.weights, rules.weights(world.speeds(step.total))))
    assert len(gaps) == 400
    assert max(gaps) < 0.03
    assert distance(rules.average, prior) > 0.1  # the prior would have been far off


def authors_speeds(world: World, step: Step) -> FloatArray:
    return np.maximum(world.alpha, 0.05) * world.beta * step.total**-world.alpha


@pytest.mark.parametrize("num", [3, 7, 22])
def test_published_rules_with_the_true_laws_give_nearly_the_same_too(num: int) -> None:
    world, prior = World.random(num, seed=num), np.full(num, 1 / num)
    authors = AuthorsAdo(setting(prior), **STEPS, sequence_length=LENGTH)
    mixteras = MixteraAdo(setting(prior), **STEPS, sequence_length=LENGTH)
    rules = Rules(prior)
    for step in loop(authors, world, prior, 400):
        rules.see(step.tokens)
        if step.weights is not None:
            rho = prior * np.sqrt(rules.credit) * authors_speeds(world, step)
            rho = np.maximum(rho / rho.sum(), 0.01)
            rho /= rho.sum()
            assert distance(step.weights, 0.9 * rules.average + 0.1 * rho) < 0.03
            rules.average = rules.average + (rho - rules.average) / rules.step
    credit = average = prior
    for step in loop(mixteras, world, prior, 400):
        if step.weights is not None:
            rho = prior * np.sqrt(credit) * world.speeds(step.total)
            rho /= rho.sum()
            weights = np.maximum(0.1 * rho + 0.9 * average, 0.01)
            weights /= weights.sum()
            credit = 0.1 * weights + 0.9 * credit
            average = average + (rho - average) / (step.number + 2)
            assert distance(step.weights, weights) < 0.03


def pooled(speeds: FloatArray, errors: FloatArray) -> FloatArray:
    """DerSimonian and Laird (1986): the variance between components by moments, then each drawn to the mean."""
    weight = 1 / errors**2
    mean = np.average(speeds, weights=weight)
    q = (weight * (speeds - mean) ** 2).sum()
    between = max(0.0, (q - len(speeds) + 1) / (weight.sum() - (weight**2).sum() / weight.sum()))
    centre = np.average(speeds, weights=1 / (between + errors**2))
    result: FloatArray = (between * speeds + errors**2 * centre) / (between + errors**2)
    return result


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("own_counts", [True, False])
def test_ado_is_its_equations_with_the_laws_that_it_says(shrink: bool, own_counts: bool) -> None:
    world, prior = World.random(7), np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.04, 0.01])
    sizes = np.array([1e9, 3e5, 1e9, 1e5, 1e9, 2e4, 1e9])  # the second, the fourth and the sixth are repeated
    policy = Ado(setting(prior, sizes), **STEPS, shrink=shrink, own_counts=own_counts)
    rules, seen, policy_update = Rules(prior, floor=0.01), np.zeros(7), policy.update
    compared = 0
    rng, total = np.random.default_rng(1), 0.0
    for number in range(300):
        sequences = rng.multinomial(PER_STEP, prior)
        total += PER_STEP
        weights = policy_update(number, world.losses(total, sequences, rng) * sequences * LENGTH, sequences * LENGTH, 1)
        rules.see(sequences)
        seen = seen + sequences * LENGTH
        if weights is None:
            continue
        n = seen if own_counts else np.full(7, seen.sum())
        alpha = told(policy, "alpha")
        speeds = alpha * told(policy, "beta") * n**-alpha
        assert speeds == pytest.approx(told(policy, "speed"), rel=1e-9)
        if shrink:
            speeds = np.maximum(pooled(speeds, told(policy, "speed_error")), 0.0)
        speeds = speeds / n * np.exp(-np.maximum(seen / sizes - 1, 0) / 15.4)
        assert weights == pytest.approx(rules.weights(speeds), abs=1e-9)
        assert told(policy, "preference") == pytest.approx(rules.rho, abs=1e-9)
        compared += 1
    assert compared == 200


def test_a_rare_component_gets_what_its_law_gives_although_most_steps_lack_it() -> None:
    prior = np.array([0.6, 0.398, 0.002])
    world = World(epsilon=np.array([2.0, 2.2, 1.9]), beta=np.array([4.0, 5.0, 30.0]), alpha=np.array([0.2, 0.2, 0.3]))
    policy, rules = Ado(setting(prior), **STEPS, floor=0.0), Rules(prior, floor=0.0)
    steps = loop(policy, world, prior, 600)
    assert np.mean([step.tokens[2] == 0 for step in steps[:100]]) > 0.7
    for step in steps:
        rules.see(step.tokens)
        if step.weights is not None:
            expected = rules.weights(world.speeds(step.total))
    speed, error = told(policy, "speed"), told(policy, "speed_error")
    assert error[2] > 3 * error[0]
    assert abs(speed[2] - world.speeds(steps[-1].total)[2]) < 4 * error[2]
    assert steps[-1].weights is not None
    assert steps[-1].weights == pytest.approx(expected, abs=0.01)
    assert steps[-1].weights[2] == pytest.approx(expected[2], rel=0.3)


def test_what_is_exhausted_is_left_the_floor_and_the_others_get_what_they_would_without_it() -> None:
    prior, gone_at = np.array([0.4, 0.3, 0.3]), 250
    world = World.random(3, seed=5)
    policy, rules = Ado(setting(prior), **STEPS), Rules(prior)
    is_out = np.zeros(3, bool)
    noticed = []
    steps = loop(policy, world, prior, 500, is_there=lambda step: np.array([step < gone_at, True, True]))
    for step in steps:
        rules.see(step.tokens)
        if step.weights is None:
            continue
        is_out[0] = step.number >= gone_at and told_out(steps, step.number)
        rules.prior = prior * ~is_out
        expected = rules.weights(world.speeds(step.total))
        noticed.append(step.number if is_out[0] else -1)
        assert distance(step.weights, expected) < 0.03
    first = min(number for number in noticed if number >= 0)
    assert gone_at < first < gone_at + 60
    assert told(policy, "preference")[0] == 0.0


def told_out(steps: list[Step], number: int) -> bool:
    """Whether a component has missed thirty appearances, by the weights that it had."""
    before = [step.tokens[0] for step in steps[: number + 1] if step.tokens[0]]
    last = max(step.number for step in steps[: number + 1] if step.tokens[0])
    shares = [steps[at - 1].weights for at in range(last + 1, number + 1)]
    due = sum(PER_STEP * LENGTH * share[0] for share in shares if share is not None)
    return bool(due > 30 * np.mean(before))


def test_what_is_repeated_is_worth_less_by_its_passes() -> None:
    prior = np.array([0.5, 0.5])
    world = World(epsilon=np.full(2, 2.0), beta=np.full(2, 5.0), alpha=np.full(2, 0.3), noise=0.001)
    sizes = np.array([1e9, 1e5])
    policy = Ado(setting(prior, sizes), **STEPS)
    steps = loop(policy, world, prior, 400)
    passes = sum(step.tokens[1] for step in steps) / 1e5
    assert passes > 5
    preference, credit = told(policy, "preference"), told(policy, "credit")
    expected = math.exp(-(passes - 1) / 15.4) * math.sqrt(credit[1] / credit[0])
    assert preference[1] / preference[0] == pytest.approx(expected, rel=0.05)


def test_a_component_that_appears_later_has_the_median_speed_and_then_its_own() -> None:
    prior, comes_at = np.array([0.3, 0.3, 0.2, 0.2]), 260
    world = World(epsilon=np.full(4, 2.0), beta=np.array([3.0, 5.0, 9.0, 6.0]), alpha=np.array([0.2, 0.25, 0.3, 0.35]))
    policy = Ado(setting(prior), **STEPS)
    own: list[bool] = []
    policy_update, rules = policy.update, Rules(prior)
    rng, total, shares = np.random.default_rng(0), 0.0, prior
    for number in range(500):
        present = shares * np.array([True, True, True, number >= comes_at])
        sequences = rng.multinomial(PER_STEP, present / present.sum())
        total += PER_STEP
        loss_sum = world.losses(total, sequences, rng) * sequences * LENGTH
        weights = policy_update(number, loss_sum, sequences * LENGTH, 1)
        rules.see(sequences)
        if weights is None:
            continue
        shares, speeds = weights, world.speeds(total)
        own.append(bool(np.isfinite(told(policy, "alpha")[3])))
        expected = rules.weights(np.where([True, True, True, own[-1]], speeds, np.median(speeds[:3])))
        assert distance(weights, expected) < 0.03
    assert own == sorted(own)
    first = own.index(True) + 100
    assert comes_at < first <= comes_at + 60  # the next fit that has eight points of it


def test_speeds_known_badly_are_drawn_together_and_those_known_well_are_not() -> None:
    prior = np.full(8, 1 / 8)
    gaps: dict[tuple[float, bool], list[float]] = {}
    for noise in (0.002, 0.6):
        alpha = np.linspace(0.24, 0.26, 8)
        world = World(epsilon=np.full(8, 2.0), beta=np.full(8, 5.0), alpha=alpha, noise=noise)
        for shrink in (True, False):
            gaps[noise, shrink] = []
            for seed in range(3):
                policy, rules = Ado(setting(prior), **STEPS, shrink=shrink), Rules(prior)
                for step in loop(policy, world, prior, 201, seed=seed):
                    rules.see(step.tokens)
                    if step.weights is not None:
                        rules.weights(world.speeds(step.total))
                gaps[noise, shrink].append(distance(told(policy, "preference"), rules.rho))
    assert np.mean(gaps[0.002, True]) == pytest.approx(np.mean(gaps[0.002, False]), abs=0.005)
    assert all(drawn < alone for drawn, alone in zip(gaps[0.6, True], gaps[0.6, False], strict=True))
    assert np.mean(gaps[0.6, True]) < 0.8 * np.mean(gaps[0.6, False])


def test_a_fit_that_starts_warm_is_never_worse_and_gives_the_same_weights() -> None:
    world, prior = World.random(7, seed=2), np.full(7, 1 / 7)
    warm, cold = (Ado(setting(prior), **STEPS, warm_start=is_warm) for is_warm in (True, False))
    points: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    start = np.full((7, 3), np.nan)
    for step in loop(warm, world, prior, 401):
        weights = cold.update(step.number, step.loss_sum, step.tokens, 1)
        if step.number >= 20:
            counts = np.full(7, step.total)
            points.append((counts, step.loss_sum / np.maximum(step.tokens, 1), step.tokens.astype(float)))
        if step.weights is None or weights is None:
            continue
        assert distance(step.weights, weights) < 1e-3
        if step.number % 50 == 0:
            c, y, w = (np.array(column).T for column in zip(*points, strict=True))
            from_before, anew = fit_laws(c, y, w, start_K3=start), fit_laws(c, y, w)
            assert (from_before.objective <= anew.objective * (1 + 1e-9)).all()
            start = from_before.theta
    assert np.isfinite(start).all()
