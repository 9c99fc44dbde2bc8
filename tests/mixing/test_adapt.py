"""Adaptive mixing is declared with a policy's class and options; what is wrong is refused where it is declared."""

from typing import Any

import numpy as np
import pytest

from mixlake.catalog import ConfigError
from mixlake.mixing import Adapt
from mixlake.mixing.policies import Setting
from mixlake.mixing.policy_bandit import OnlineDataMixing
from mixlake.mixing.policy_bounded import Bounded

ODM = "mixlake.mixing.policy_bandit.OnlineDataMixing"
SETTING = Setting(components=("a", "b"), prior=np.array([0.25, 0.75]))


def test_what_is_declared_is_stored_and_read_again() -> None:
    declared = {"policy": {"_target_": ODM, "reward_scale": 0.2}, "bounds": {"floor": 0.01}, "interval": 10}
    adapt = Adapt.from_config(declared)
    assert (adapt.interval, adapt.tolerance, adapt.delay, adapt.bounds.floor) == (10, 0.001, None, 0.01)
    assert Adapt.from_config(adapt.to_dict()) == adapt
    assert isinstance(adapt.make_policy(SETTING), Bounded)
    assert isinstance(Adapt.from_config({"policy": {"_target_": ODM}}).make_policy(SETTING), OnlineDataMixing)


def test_decisions_are_due_once_per_interval_also_where_steps_are_missing() -> None:
    adapt = Adapt.from_config({"policy": {"_target_": ODM}, "interval": 10})
    reported = [0, 3, 8, 12, 13, 19, 45, 46]
    due = [step for before, step in zip([-1, *reported], reported, strict=False) if adapt.decides(step, before)]
    assert due == [12, 19, 45]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "adapt lacks 'policy'"),
        ({"policy": ODM}, "adapt.policy: expected _target_ and the policy's options, got 'mixlake"),
        ({"policy": {"_target_": ODM}, "intervall": 3}, "adapt has no key 'intervall'.*Did you mean 'interval'?"),
        ({"policy": {"_target_": ODM}, "interval": 1}, "adapt.interval is 1; expected 2 steps or more"),
        ({"policy": {"_target_": ODM}, "tolerance": 2}, "adapt.tolerance is 2; expected a number from 0 to 1"),
        ({"policy": {"_target_": ODM}, "bounds": {"floor": "low"}}, "adapt.bounds.floor is 'low'; expected a number"),
        ({"policy": {"_target_": ODM}, "bounds": {"max_change": 0}}, "max_change is 0; expected more than 0"),
        ({"policy": {"_target_": ODM}, "bounds": {"top": 1}}, "adapt.bounds has no key 'top'"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Adapt.from_config(declared)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "adapt.policy._target_ is None; expected the dotted name"),
        ({"_target_": "nowhere.Policy"}, "'nowhere.Policy' cannot be imported"),
        ({"_target_": "os.system", "command": "true"}, "'os.system' is no class; a policy is a class with update"),
        ({"_target_": "collections.OrderedDict"}, "is a class without state_dict, load_state_dict"),
        ({"_target_": ODM, "reward": 1}, "adapt.policy has no 'reward'; .* has: reward_scale, .*Did you mean"),
        ({"_target_": ODM, "moving_average": 2}, "moving_average is 2; expected 0 to 1"),
    ],
)
def test_a_wrong_policy_is_refused(policy: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Adapt.from_config({"policy": policy}).make_policy(SETTING)
