"""Runs made to fail: the incumbent serves on, and the training says why."""

from __future__ import annotations

from kube import Kube, condition, eventually, is_true
from served_model import ServedModel
from training_runs import capture_folder, ended, replaced_traffic, start_by_hand


def serving(model: ServedModel) -> list[str]:
    return [entry["revision"] for entry in model.policy["spec"].get("speculators", [])]


async def test_a_killed_training_pod_leaves_the_incumbent(smollm2: ServedModel, kube: Kube) -> None:
    """The Job doesn't retry; the training is Failed, the pods keep what they had."""
    before = serving(smollm2)
    start_by_hand(smollm2, "killed")

    def running() -> str | None:
        pods = kube.list("pods", labels=f"bowsprit.dev/model={smollm2.name},app.kubernetes.io/component=training")
        return next((pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"), None)

    pod = await eventually(running, seconds=60, what="a running training pod")
    kube.delete("pod", pod, "--grace-period=0", "--force")
    run = await eventually(lambda: ended(kube, "killed"), seconds=60, what="the end of the run")
    failed = condition(run, "Failed")
    assert (failed["status"], failed["reason"], run["status"]["outcome"]) == ("True", "PodLost", "Failed")
    assert (serving(smollm2), smollm2.serves(before[0])) == (before, True)
    assert before[0] in failed["message"]


async def test_a_candidate_that_is_not_better_leaves_the_incumbent(smollm2: ServedModel, kube: Kube) -> None:
    """Its traffic became noise: what is trained on that, from the incumbent's weights, is no better, and Rejected."""
    before = serving(smollm2)
    noise = ServedModel.when_ready(kube, "noise")
    with replaced_traffic(smollm2, by=noise):
        start_by_hand(smollm2, "no-better")
        run = await eventually(lambda: ended(kube, "no-better"), seconds=480, what="the end of the run")
    revision = kube.read("srev", run["status"]["revision"])
    recent = revision["spec"]["evaluation"]["recent"]
    message = condition(revision, "Rejected")["message"]
    assert (is_true(revision, "Rejected"), run["status"]["outcome"]) == (True, "Rejected")
    assert (revision["spec"]["parent"], float(recent["gain"]["mean"]) < 0.02) == (before[0], True)
    assert f"{float(recent['incumbent']['mean']):.3f} without" in message
    assert f"{float(recent['candidate']['mean']):.3f} with" in message
    assert (serving(smollm2), smollm2.serves(before[0])) == (before, True)


async def test_unreadable_shards_leave_the_untrained_drafters(kube: Kube) -> None:
    """Every shard of this model is garbage: the run fails and names one of them."""
    model = ServedModel.when_ready(kube, "noise")
    shards = sorted(capture_folder(model).glob("*.parquet"))
    for shard in shards:
        shard.write_bytes(b"this is no Parquet file")
    start_by_hand(model, "unreadable")
    run = await eventually(lambda: ended(kube, "unreadable"), seconds=120, what="the end of the run")
    failed = condition(run, "Failed")
    assert (failed["status"], failed["reason"], serving(model)) == ("True", "UnreadableShards", [])
    assert [shard.name for shard in shards if shard.name in failed["message"]] != []
    kube.delete("smodel", "noise")
