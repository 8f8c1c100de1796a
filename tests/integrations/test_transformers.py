"""The loss and the callback in real Trainers, on scikit-learn's digits as sequences of tokens."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from noisylabels.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from noisylabels.losses import DynamicsAwareLoss, build

CLASSES = 10


@pytest.fixture(scope="module")
def transformers():
    return importlib.import_module("transformers")


@pytest.fixture(scope="module")
def adapter():
    return importlib.import_module("noisylabels.integrations.transformers")


def digits(count=64, kind="classes"):
    """Return rows as the Trainer takes them, whose labels are of a kind and not all known."""
    images, classes = load_digits(return_X_y=True)
    tokens, classes = torch.from_numpy(images[:count]).long(), torch.from_numpy(classes[:count])
    # Unevenly: the batches of a step do not have the same number of labels.
    ignored = torch.arange(count) % 11 < torch.arange(count) // 8
    if kind == "classes":
        labels = classes.masked_fill(ignored, -100)
    elif kind == "probabilities":
        labels = 0.7 * F.one_hot(classes, CLASSES) + 0.03
    else:
        # Tokens: where the ink is of a kind, beginning with padding.
        labels = (tokens // 2).masked_fill(torch.arange(64) < 4 * ignored[:, None], -100)
    return [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def network(transformers, kind="classes", **options):
    """Make a small BERT without a download; without dropout, unless the options say so."""
    torch.manual_seed(0)
    small = {
        "vocab_size": 17,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_labels": CLASSES,
    }
    config = transformers.BertConfig(**small | options)
    if kind == "tokens":
        return transformers.BertForTokenClassification(config)
    return transformers.BertForSequenceClassification(config)


def make_trainer(
    transformers, adapter, out, loss, rows, *, callbacks=(), kind="classes", **options
):
    model = network(transformers, kind)
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        lr_scheduler_type="constant",
        **{"save_strategy": "no", "learning_rate": 0.1, "max_grad_norm": 0.0} | options,
    )
    return transformers.Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        compute_loss_func=adapter.LossFunction(loss),
        callbacks=[adapter.LossProgress(loss), *callbacks],
        optimizers=(torch.optim.SGD(model.parameters(), lr=arguments.learning_rate), None),
    )


def weights(model):
    return torch.cat([part.detach().flatten() for part in model.parameters()])


def moves(before, after):
    return (weights(after) - weights(before)).norm().item()


KINDS = ["classes", "probabilities", "tokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_the_sum_over_the_items_of_the_step(adapter, kind):
    rows = digits(8, kind)
    labels = torch.stack([row["labels"] for row in rows])
    torch.manual_seed(0)
    shape = (8, 64, CLASSES) if kind == "tokens" else (8, CLASSES)
    logits = torch.randn(shape, requires_grad=True)
    flat = labels if kind == "probabilities" else labels.flatten()
    total = F.cross_entropy(logits.flatten(0, -2), flat, reduction="sum")
    # What the Trainer counts: each number that is not -100.
    items = labels.ne(-100).sum()
    each = items // CLASSES if kind == "probabilities" else items
    function = adapter.LossFunction(build("ce"))
    for outputs in ({"logits": logits}, (logits, "hidden states")):
        for given in (None, items, int(items), items.float()):
            assert function(outputs, labels, num_items_in_batch=given).item() == pytest.approx(
                (total / each).item()
            )
        part = function(outputs, labels, num_items_in_batch=4 * items)
        assert part.item() == pytest.approx((total / each).item() / 4)
        devices = torch.stack([items, items])[:, None]
        part = function(outputs, labels, num_items_in_batch=devices)
        assert part.item() == pytest.approx((total / each).item() / 2)


def test_a_loss_keeps_its_weights_its_smoothing_and_its_reduction(adapter):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, -100])
    weight = torch.tensor([0.5, 2.0, 0.5])
    loss = build("ce", weight=weight, label_smoothing=0.1, reduction="none")
    expected = F.cross_entropy(logits, labels, weight, label_smoothing=0.1, reduction="sum") / 3
    found = adapter.LossFunction(loss)({"logits": logits}, labels)
    assert found.item() == pytest.approx(expected.item())
    assert loss.reduction == "none"


def test_rows_of_probabilities_that_are_padded_count_for_nothing(adapter):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.randn(2, 3, 4).softmax(-1)
    known = F.cross_entropy(logits[0], labels[0])
    labels[1] = -100
    function = adapter.LossFunction(build("ce"))
    for items in (None, labels.ne(-100).sum()):
        assert function({"logits": logits}, labels, items).item() == pytest.approx(known.item())


def test_a_step_without_labels_leaves_the_weights_alone(adapter):
    logits = torch.randn(2, 3, requires_grad=True)
    for items in (None, 0):
        loss = adapter.LossFunction(DynamicsAwareLoss())(
            {"logits": logits}, torch.tensor([-100, -100]), num_items_in_batch=items
        )
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ({"logits": torch.zeros(2, 3)}, None, "the batch has no labels"),
        ({"logits": torch.zeros(2, 1)}, torch.zeros(2), r"\(2,\) do not fit .* shape \(2, 1\)"),
        ({"logits": torch.zeros(2, 3)}, torch.zeros(2, 3, dtype=int), r"of shape \(2, 3\) do not"),
        ({"hidden": torch.zeros(2, 3)}, torch.zeros(2), "dict: expected a tensor of `logits`"),
        ({"logits": torch.zeros(2, 3)}, torch.tensor([1, 3]), "which has 3 .*nor -100: Target 3"),
    ],
)
def test_outputs_and_labels_that_do_not_fit_are_refused(adapter, outputs, labels, message):
    with pytest.raises((ConfigError, DataError), match=message):
        adapter.LossFunction(build("ce"))(outputs, labels)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_labels_may_be_any_whole_numbers(adapter, dtype):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    function = adapter.LossFunction(build("gce"))
    expected = function({"logits": logits}, labels)
    assert function({"logits": logits}, labels.to(dtype)) == expected


def test_progress_wants_a_module(adapter):
    with pytest.raises(ConfigError, match="expected the loss that LossFunction was given.*'dal'"):
        adapter.LossProgress("dal")


def test_a_language_model_and_other_ignored_labels_are_refused(adapter, transformers):
    outputs = transformers.modeling_outputs.CausalLMOutput(logits=torch.zeros(1, 2, 3))
    with pytest.raises(ConfigError, match="CausalLMOutput: a causal language model predicts the"):
        adapter.LossFunction(build("ce"))(outputs, torch.zeros(1, 2, dtype=int))
    with pytest.raises(ConfigError, match="ignore_index must be -100, .*got 255"):
        adapter.LossFunction(build("ce", ignore_index=255))
    with pytest.raises(ConfigError, match="evaluation_progress must be in"):
        adapter.LossFunction(build("ce"), evaluation_progress=2)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_are_those_of_the_whole_batch(transformers, adapter, tmp_path, kind):
    trained = []
    for accumulated in (1, 4):
        trainer = make_trainer(
            transformers,
            adapter,
            tmp_path,
            DynamicsAwareLoss(),
            digits(kind=kind),
            kind=kind,
            max_steps=1,
            per_device_train_batch_size=32 // accumulated,
            gradient_accumulation_steps=accumulated,
        )
        trainer.train()
        trained.append(trainer.model)
    start = network(transformers, kind)
    assert moves(start, trained[0]) > 1e-3
    assert moves(*trained) < 1e-4 * moves(start, trained[0])


class Noted:
    """Notes q before each step's first batch."""

    def __init__(self, transformers, loss, stop=None):
        class Callback(transformers.TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                noted.append(("begin", state.global_step, loss.progress))

            def on_step_begin(self, args, state, control, **kwargs):
                noted.append((state.global_step, loss.progress, loss.q))

            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == stop

        noted = self.noted = []
        self.callback = Callback()


def test_training_resumed_within_an_epoch_is_as_if_never_cut(transformers, adapter, tmp_path):
    """Four steps in an epoch, cut after the sixth."""

    def fit(out, stop=None, resume=None):
        loss = DynamicsAwareLoss(q_start=0.6, q_end=1.5)
        noted = Noted(transformers, loss, stop)
        trainer = make_trainer(
            transformers,
            adapter,
            tmp_path / out,
            loss,
            digits(),
            callbacks=[noted.callback],
            num_train_epochs=3,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            save_strategy="steps",
            save_steps=6,
        )
        trainer.train(resume_from_checkpoint=resume)
        return noted.noted, weights(trainer.model)

    whole, trained = fit("whole")
    cut, _ = fit("cut", stop=6)
    resumed, continued = fit("resumed", resume=str(tmp_path / "cut" / "checkpoint-6"))
    for step, noted in enumerate(whole[1:]):
        assert noted == pytest.approx((step, step / 12, 0.6 + 0.9 * step / 12))
    assert len(whole) == 13
    assert len(cut) == 7
    assert resumed == [("begin", 6, 0.5), *whole[7:]]
    assert torch.equal(continued, trained)


REMEMBERING = {
    "adaptive-dal": {},
    "ogc": {"interval": 5, "queue": 20},
    "forward": {"warmup": 0.6},
    "backward": {"warmup": 0.6, "queue": 30},
    "peer": {},
}


def fit_remembering(transformers, adapter, out, key, resume=None, named=None, **options):
    weighted = {"weight": torch.ones(CLASSES)} if key == "weighted" else {}
    loss = build("peer" if weighted else key, **weighted or REMEMBERING[key])
    # Twelve steps teach nothing.
    loss.warns = False
    trainer = make_trainer(
        transformers,
        adapter,
        out,
        loss,
        digits(),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        save_strategy="steps",
        save_steps=6,
        logging_steps=1,
        **options,
    )
    trainer.remove_callback(adapter.LossProgress)
    holder = torch.nn.ModuleList([torch.nn.Linear(2, 2), loss])
    trainer.add_callback(adapter.LossProgress(holder, resume_from_checkpoint=named))
    trainer.train(resume_from_checkpoint=resume)
    return loss, weights(trainer.model)


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert_same(value, theirs[name])
    else:
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


@pytest.mark.parametrize("key", REMEMBERING)
def test_a_loss_that_remembers_goes_on_where_it_was(transformers, adapter, tmp_path, key):
    whole, trained = fit_remembering(transformers, adapter, tmp_path, key)
    folder = tmp_path / "checkpoint-6"
    assert (folder / adapter.STATE).is_file()
    assert not list(folder.glob(".*.tmp"))
    saved = torch.load(folder / adapter.STATE, weights_only=True)
    assert list(saved["losses"]) == ["loss.1"]
    elsewhere = str(tmp_path / "elsewhere")
    for out, named in ((tmp_path, None), (elsewhere, folder)):
        options = {"resume": str(folder), "named": named}
        resumed, continued = fit_remembering(transformers, adapter, out, key, **options)
        assert torch.equal(continued, trained)
        assert_same(resumed.state_dict()["_extra_state"], whole.state_dict()["_extra_state"])


def test_a_state_that_is_not_found_or_of_another_run_is_said(transformers, adapter, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    fit_remembering(transformers, adapter, first, "peer")
    resume = str(first / "checkpoint-6")
    with pytest.warns(UserWarning, match="from step 6 without what it remembered"):
        fit_remembering(transformers, adapter, second, "peer", resume)
    assert (second / "checkpoint-12" / adapter.STATE).is_file()
    fit_remembering(transformers, adapter, second, "peer", learning_rate=0.05)
    with pytest.warns(UserWarning, match="has no noisylabels.pt of this run"):
        fit_remembering(transformers, adapter, second, "peer", resume)
    with pytest.raises(CheckpointError, match=r"checkpoint-6.noisylabels.pt: .*weight"):
        fit_remembering(transformers, adapter, first, "weighted", resume)
    (first / "checkpoint-6" / adapter.STATE).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"checkpoint-6.noisylabels.pt: "):
        fit_remembering(transformers, adapter, first, "peer", resume)


def test_evaluation_keeps_its_hyper_parameters_while_training_moves(
    transformers, adapter, tmp_path
):
    rows = digits(42)
    loss = DynamicsAwareLoss(q_start=0.6, q_end=1.5)
    trainer = make_trainer(
        transformers,
        adapter,
        tmp_path,
        loss,
        rows,
        num_train_epochs=4,
        learning_rate=0.0,
        per_device_train_batch_size=42,
        per_device_eval_batch_size=42,
        eval_strategy="epoch",
        logging_strategy="epoch",
    )
    trainer.train()
    told = trainer.state.log_history
    evaluated = [line["eval_loss"] for line in told if "eval_loss" in line]
    trained = [line["loss"] for line in told if "loss" in line]
    assert len(evaluated) == len(trained) == 4
    assert evaluated == [pytest.approx(trained[0])] * 4
    assert len(set(trained)) == 4
    assert loss.progress == 0.75
    model = network(transformers).eval()
    labels = torch.stack([row["labels"] for row in rows])
    with torch.no_grad():
        logits = model(torch.stack([row["input_ids"] for row in rows])).logits
    by_hand = DynamicsAwareLoss(q_start=0.6, q_end=1.5)(logits, labels)
    assert evaluated[0] == pytest.approx(by_hand.item(), rel=1e-5)
    trainer.compute_loss_func = adapter.LossFunction(loss, evaluation_progress=0.75)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trained[-1])


TONES = ["negative", "neutral", "positive"]


def snippets(shared, count, length=32, words=2000):
    """Return review snippets as tokens: one rater's tones to learn, the consensus to test."""
    columns = parquet.read_table(shared / "data" / "text" / "crowd_snippets.parquet").to_pydict()
    order = torch.randperm(len(columns["text"]), generator=torch.Generator().manual_seed(0))
    chosen = order[:count].tolist()
    split = [re.findall(r"\w+|[!?.]", columns["text"][place].lower()) for place in chosen]
    known = Counter(word for text in split[: count * 3 // 4] for word in text)
    ids = {word: number for number, (word, _) in enumerate(known.most_common(words), start=2)}

    def row(text, tone):
        tokens = torch.tensor([ids.get(word, 1) for word in text[:length]])
        padding = (0, length - len(tokens))
        return {
            "input_ids": F.pad(tokens, padding),
            "attention_mask": F.pad(torch.ones_like(tokens), padding),
            "labels": TONES.index(tone),
        }

    def rows(column, part):
        tones = [columns[column][place] for place in chosen[part]]
        return list(map(row, split[part], tones))

    cut = count * 3 // 4
    return rows("one_rater", slice(cut)), rows("consensus", slice(cut, None))


@pytest.mark.long
def test_a_bert_learns_the_consensus_from_one_rater(transformers, adapter, tmp_path, shared):
    train, test = snippets(shared, count=6000)

    def fit(loss):
        model = network(
            transformers,
            vocab_size=2002,
            hidden_size=32,
            intermediate_size=64,
            max_position_embeddings=32,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            num_labels=3,
        )
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                output_dir=str(tmp_path),
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                num_train_epochs=4,
                learning_rate=4e-3,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=256,
            ),
            train_dataset=train,
            eval_dataset=test,
            compute_loss_func=adapter.LossFunction(loss),
            callbacks=[adapter.LossProgress(loss)],
            compute_metrics=lambda told: {
                "accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())
            },
        )
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]

    robust = DynamicsAwareLoss(q_start=0.0, q_end=1.5)
    accuracies = {"ce": fit(build("ce")), "dal": fit(robust)}
    most = max(Counter(row["labels"] for row in test).values()) / len(test)
    assert robust.q == pytest.approx(1.5, abs=0.01)
    assert min(accuracies.values()) > most + 0.05
    assert accuracies["dal"] > accuracies["ce"] - 0.03


WAYS = [("tokens", True), ("probabilities", False)]
"""Kinds of labels, and `average_tokens_across_devices`: without, processes must count the same."""

BEGUN = """
import sys
import torch, transformers
import test_transformers as tests
from noisylabels.integrations import transformers as adapter

trained = [tests.train(transformers, adapter, sys.argv[1], 2, *way) for way in tests.WAYS]
if transformers.TrainingArguments(use_cpu=True).process_index == 0:
    torch.save(trained, f"{sys.argv[1]}/trained.pt")
"""


def train(transformers, adapter, out, processes, kind, average):
    trainer = make_trainer(
        transformers,
        adapter,
        out,
        DynamicsAwareLoss(),
        digits(kind=kind),
        kind=kind,
        num_train_epochs=1,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=16 // processes,
        per_device_eval_batch_size=16 // processes,
        average_tokens_across_devices=average,
    )
    assert trainer.args.world_size == processes
    trainer.train()
    return weights(trainer.model), trainer.evaluate()["eval_loss"]


@pytest.mark.long
def test_two_processes_train_and_evaluate_as_one(transformers, adapter, tmp_path):
    """Though either has another number of tokens, of which DDP alone would take equal means."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = tmp_path / "begun.py"
    script.write_text(BEGUN)
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = torch.load(tmp_path / "trained.pt", weights_only=True)
    for (kind, average), (together, evaluated) in zip(WAYS, results, strict=True):
        alone, expected = train(transformers, adapter, tmp_path, 1, kind, average)
        moved = (alone - weights(network(transformers, kind))).norm()
        assert moved > 1e-3
        assert (together - alone).norm() < 1e-4 * moved
        assert evaluated == pytest.approx(expected, rel=1e-5)


def test_the_page_shows_a_trainer_that_trains(transformers, adapter, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "integrations.md"
    text = page.read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from transformers .*?)```", text, re.DOTALL)
    rows = digits(32)
    trainer = make_trainer(transformers, adapter, tmp_path, DynamicsAwareLoss(), rows, max_steps=2)
    names = {"model": trainer.model, "arguments": trainer.args, "train": rows, "validation": rows}
    exec(block, names)
    names["trainer"].train()
    assert names["loss"].progress == 0.5
    assert names["trainer"].evaluate()["eval_loss"] > 0


def test_the_examples_in_docstrings(adapter):
    failed, tried = doctest.testmod(adapter)
    assert tried > 0 == failed


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    name = "noisylabels.integrations.transformers"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'noisylabels\[transformers\]'"):
        importlib.import_module(name)
