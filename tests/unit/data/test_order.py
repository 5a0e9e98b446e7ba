import pytest

from workers.data.batches.order import ExampleOrder


def test_every_epoch_holds_each_example_once_in_its_own_order() -> None:
    order = ExampleOrder(10, seed=3)
    epochs = [order.take(10) for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_split_into_batches_does_not_matter() -> None:
    one, other = ExampleOrder(7, seed=0), ExampleOrder(7, seed=0)
    assert one.take(30) == [index for _ in range(10) for index in other.take(3)]


def test_the_position_is_the_whole_state() -> None:
    order = ExampleOrder(7, seed=5)
    order.take(17)
    resumed = ExampleOrder(7, seed=5)
    resumed.position = order.position
    assert resumed.take(20) == order.take(20)


def test_the_seed_changes_the_order() -> None:
    assert ExampleOrder(50, seed=0).take(50) != ExampleOrder(50, seed=1).take(50)


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ExampleOrder(0, seed=0)
