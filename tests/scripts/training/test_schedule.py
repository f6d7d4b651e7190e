"""Learning rates of a training, step by step."""

import math

import pytest
import torch
from ignite.engine import Engine

from scripts.training.schedule import LearningRate, parameter_groups
from transforms.errors import InputError

STEPS = 4


def rates(max_epochs=5, epochs=None, start=0, groups=None, **options):
    """Return the rates of all groups at each step of a training, from the epoch after ``start``."""
    if groups is None:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1, "name": "new"}]
    optimizer = torch.optim.Adam(groups)
    seen = []
    engine = Engine(lambda engine, batch: seen.append([group["lr"] for group in optimizer.param_groups]))
    LearningRate(optimizer, max_epochs, **options).attach(engine)
    engine.state.epoch, engine.state.iteration = start, start * STEPS
    engine.load_state_dict({"epoch": start, "max_epochs": epochs or max_epochs, "epoch_length": STEPS})
    engine.run(range(STEPS))
    return seen


def test_polynomial_decay_follows_its_formula():
    found = [rate for (rate,) in rates()]
    assert found == pytest.approx([0.1 * (1 - step / 20) ** 0.9 for step in range(20)])
    assert found[-1] > 0


def test_cosine_decay_is_half_at_half_the_training():
    found = [rate for (rate,) in rates(decay="cosine")]
    assert found == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])
    assert found[10] == pytest.approx(0.05)


def test_the_warm_up_is_linear_and_its_first_step_is_not_zero():
    found = [rate for (rate,) in rates(decay="none", warmup_epochs=2)]
    assert found[:8] == pytest.approx([0.1 * (step + 1) / 8 for step in range(8)])
    assert found[8:] == [0.1] * 12


def test_a_resumed_training_has_the_rates_of_an_unbroken_one():
    options = {"warmup_epochs": 1.5, "new_epochs": 1}
    assert rates(**options)[2 * STEPS :] == rates(start=2, **options)


def test_new_layers_learn_first_and_the_others_warm_up_after_them():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    groups = parameter_groups(network, 0.1, ["0.weight", "0.bias"], 0.5)
    assert [(group["name"], len(group["params"]), group["lr"]) for group in groups] == [
        ("new", 2, 0.1),
        ("transferred", 2, 0.05),
    ]
    found = rates(groups=groups, decay="none", warmup_epochs=1, new_epochs=2)
    new, transferred = zip(*found, strict=True)
    assert transferred[: 2 * STEPS] == (0.0,) * 2 * STEPS
    assert transferred[2 * STEPS : 3 * STEPS] == pytest.approx([0.05 * (step + 1) / STEPS for step in range(STEPS)])
    assert new[STEPS:] == (0.1,) * 4 * STEPS
    assert transferred[3 * STEPS :] == (0.05,) * 2 * STEPS


def test_each_parameter_is_in_one_group_and_random_weights_are_in_one():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    (group,) = parameter_groups(network, 0.1)
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in network.parameters()]


@pytest.mark.parametrize("options", [{"decay": "step"}, {"warmup_epochs": -1}, {"warmup_epochs": 3, "new_epochs": 2}])
def test_impossible_values_are_refused(options):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(InputError, match=r"^(decay|warmup_epochs and new_epochs): found .*, expected "):
        LearningRate(optimizer, 5, **options)


def test_a_trainer_that_goes_on_after_its_last_epoch_starts_the_schedule_again():
    options = {"max_epochs": 2, "warmup_epochs": 0.5}
    once = rates(**options)
    # rounds of federated learning: each goes on from the epoch that the one before ended with
    assert rates(**options, epochs=4) == once + once
