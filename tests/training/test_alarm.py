from grpo_mmpc.training.alarm import HackingAlarm


def feed(alarm: HackingAlarm, **series: list[float]) -> list[list[str]]:
    return [alarm.update(dict(zip(series, step, strict=True))) for step in zip(*series.values(), strict=True)]


def make() -> HackingAlarm:
    return HackingAlarm(trained=["bleu"], monitors=["colour", "other"], window=3)


def noisy(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * i / (steps - 1) + (0.001 if i % 2 else -0.001) for i in range(steps)]


def test_a_monitor_that_falls_while_a_trained_reward_rises_is_named_once_with_its_numbers():
    said = feed(make(), bleu=noisy(0.1, 0.6, 12), colour=noisy(0.9, 0.5, 12), other=[0.5] * 12)
    [message] = [text for step in said for text in step]
    assert message.startswith("reward hacking? bleu rose from 0.1")
    assert "while the monitor colour fell from 0.8" in message
    assert all(not step for step in said[:5])  # the first and the latest three batches still overlap


def test_both_rising_both_falling_or_a_flat_monitor_are_no_alarm():
    for bleu, colour in (((0.1, 0.6), (0.5, 0.9)), ((0.6, 0.1), (0.9, 0.5)), ((0.1, 0.6), (0.5, 0.5))):
        said = feed(make(), bleu=noisy(*bleu, 12), colour=noisy(*colour, 12), other=[0.5] * 12)
        assert said == [[]] * 12


def test_a_fall_within_the_noise_is_no_alarm():
    wild = [0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.4, 0.6, 0.2, 0.45, 0.5, 0.3]
    assert feed(make(), bleu=noisy(0.1, 0.6, 12), colour=wild, other=[0.5] * 12) == [[]] * 12


def test_the_alarm_is_given_again_after_a_recovery():
    alarm = make()
    colour = [*noisy(0.9, 0.5, 9), *[0.9, 0.91, 0.89, 0.9], *noisy(0.5, 0.4, 6)]
    said = feed(alarm, bleu=noisy(0.1, 0.6, len(colour)), colour=colour, other=[0.5] * len(colour))
    assert sum(len(step) for step in said) == 2
    assert alarm.ringing == {"colour"}


def test_a_resumed_alarm_goes_on_as_if_nothing_had_happened():
    series = {"bleu": noisy(0.1, 0.6, 12), "colour": noisy(0.9, 0.5, 12), "other": [0.5] * 12}
    whole = feed(make(), **series)
    first, second = make(), make()
    said = feed(first, **{name: values[:5] for name, values in series.items()})
    second.restore(first.state())
    said += feed(second, **{name: values[5:] for name, values in series.items()})
    assert said == whole


def test_a_reward_that_scored_nothing_in_a_batch_is_left_out_of_it():
    alarm = make()
    assert alarm.update({"bleu": 0.1}) == []
    assert alarm.state()["colour"] == []
