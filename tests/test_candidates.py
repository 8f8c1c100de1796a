"""Sets of candidates: the losses of their total probability, and of their weighed candidates."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

import naive
from noisylabels import functional
from noisylabels.candidates import CandidateLoss, check_sets, draw_candidate
from noisylabels.errors import ConfigError, DataError
from noisylabels.losses import LOSSES, build

TAKING = [key for key in LOSSES if build(key).takes_candidates]
SETS = torch.tensor(
    [
        [True, False, True, False, False],
        [False, True, False, False, False],
        [True, True, True, False, True],
        [False, False, False, True, True],
    ]
)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 5, dtype=torch.float64, generator=generator).mul(2).requires_grad_()


def total(z, row):
    return sum(p for p, inside in zip(naive.softmax(z), row, strict=True) if inside)


def logit_pair(share):
    """Logits of two classes, the second of which has this share: a set as a single label."""
    return [math.log(1 - share), math.log(share)]


class TestTotalProbability:
    def test_which_losses_take_sets(self):
        expected = {"ce", "mae", "gce", "tce", "js", "rce", "sce", "agce", "poly1", "dal"}
        assert set(TAKING) == expected | {"dgce", "dtce", "djs", "adaptive-dal"}

    @pytest.mark.parametrize(
        ("key", "hyperparameters"),
        [
            ("ce", {}),
            ("mae", {}),
            ("gce", {"q": 0.7}),
            ("tce", {"order": 2.5}),
            ("js", {"pi": 0.4}),
            ("rce", {}),
            ("sce", {"alpha": 0.5, "beta": 2.0}),
            ("agce", {"a": 2.0, "q": 1.5}),
            ("poly1", {"epsilon": 2.0}),
        ],
    )
    def test_is_the_loss_of_a_label_with_the_probability_of_the_set(
        self, key, hyperparameters, logits
    ):
        found = build(key, **hyperparameters, reduction="none")(logits, SETS)
        function = getattr(naive, key)
        for value, z, row in zip(found.tolist(), logits.tolist(), SETS.tolist(), strict=True):
            pair = logit_pair(total(z, row))
            assert value == pytest.approx(function(pair, 1, **hyperparameters), rel=1e-9)

    @pytest.mark.parametrize("progress", [0.0, 0.5, 0.9, 1.0])
    def test_dal_keeps_its_entropy_over_all_classes(self, progress, logits):
        loss = build("dal", reduction="none")
        loss.progress = progress
        for value, z, row in zip(
            loss(logits, SETS).tolist(), logits.tolist(), SETS.tolist(), strict=True
        ):
            bootstrapping = loss.lamb * naive.entropy(naive.softmax(z)) / (loss.q * math.log(5))
            expected = naive.gce(logit_pair(total(z, row)), 1, loss.q) + bootstrapping
            assert value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("key", TAKING)
    def test_gradients(self, key, logits):
        loss = build(key)
        loss.progress = 0.9
        assert torch.autograd.gradcheck(lambda z: loss(z, SETS), [logits])

    @pytest.mark.parametrize("key", TAKING)
    def test_one_candidate_is_the_ordinary_loss(self, key, logits):
        loss, labels = build(key, reduction="none"), torch.tensor([2, 0, 4, 1])
        loss.progress = 0.9
        sets = one_hot(labels, 5).bool()
        values, gradients = [], []
        for target in (labels, sets):
            values.append(loss(logits, target))
            gradients += torch.autograd.grad(values[-1].sum(), [logits])
        torch.testing.assert_close(*values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("key", ["ce", "mae", "gce", "tce", "rce", "sce", "agce", "poly1"])
    def test_all_candidates_cost_nothing(self, key):
        logits = torch.tensor([[30.0, -5.0, 0.1, 2.0]], requires_grad=True)
        value = build(key)(logits, torch.ones(1, 4, dtype=torch.bool))
        value.backward()
        assert value.item() == 0
        assert logits.grad.tolist() == [[0, 0, 0, 0]]

    def test_nothing_cancels_where_the_set_has_almost_everything(self):
        logits = torch.tensor([[40.0, 38.0, 0.0]], requires_grad=True)
        value = functional.cross_entropy(logits, torch.tensor([[True, True, False]]))
        value.sum().backward()
        rest = 1 / (math.exp(40) + math.exp(38) + 1)
        assert value.item() == pytest.approx(rest, rel=1e-5)
        assert logits.grad[0, 2].item() == pytest.approx(rest, rel=1e-5)

    @pytest.mark.parametrize("far", [1e3, 1e30])
    def test_candidates_far_below_the_others(self, far):
        logits = torch.tensor([[-far, -far, 0.0]], requires_grad=True)
        value = functional.cross_entropy(logits, torch.tensor([[True, True, False]]))
        value.sum().backward()
        assert value.item() == pytest.approx(far - math.log(2), rel=1e-6)
        assert logits.grad.tolist() == [[-0.5, -0.5, 1.0]]

    def test_logits_of_minus_infinity(self):
        inf = math.inf
        logits = torch.tensor(
            [[-inf, 0.0, 0.0, -inf], [-inf, 0.0, 1.0, 0.0], [-inf, -inf, 0.0, 0.0]],
            requires_grad=True,
        )
        sets = torch.tensor(
            [[True, True, False, False], [True, False, False, False], [True, True, False, False]]
        )
        value = functional.cross_entropy(logits, sets)
        value[0].backward(retain_graph=True)
        assert value[0].item() == pytest.approx(math.log(2))
        assert logits.grad[0].tolist() == [0.0, -0.5, 0.5, 0.0]
        # As torch has it for the label: the value is infinite, the gradient is not.
        assert value[1:].tolist() == [inf, inf]
        logits.grad = None
        value[1:].sum().backward()
        single = logits.detach()[1:2].requires_grad_()
        torch.nn.functional.cross_entropy(single, torch.tensor([0])).backward()
        torch.testing.assert_close(logits.grad[1:2], single.grad)
        assert logits.grad[2].tolist() == [-0.5, -0.5, 0.5, 0.5]
        bounded = functional.generalized_cross_entropy(logits, sets, q=0.5)
        logits.grad = None
        bounded.sum().backward()
        assert bounded[1:].tolist() == [2.0, 2.0]
        assert logits.grad.isfinite().all()

    def test_shapes_only_arrange_examples(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 3, 4, generator=generator)
        sets = torch.rand(2, 3, 4, generator=generator) < 0.5
        sets[:, 0] = True
        flat = functional.cross_entropy(
            logits.movedim(1, 2).reshape(8, 3), sets.movedim(1, 2).reshape(8, 3)
        )
        torch.testing.assert_close(functional.cross_entropy(logits, sets).flatten(), flat)
        torch.testing.assert_close(
            functional.cross_entropy(logits[0, :, 0], sets[0, :, 0]), flat[0]
        )

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_reductions_count_all_examples(self, reduction, logits):
        each = build("gce", reduction="none")(logits, SETS)
        torch.testing.assert_close(
            build("gce", reduction=reduction)(logits, SETS), getattr(each, reduction)()
        )

    def test_half_is_computed_in_float32(self, logits):
        half = logits.detach().bfloat16()
        value = build("ce")(half, SETS)
        assert value.dtype is torch.float32
        assert value == build("ce")(half.float(), SETS)

    def test_compiled_and_mapped(self, logits):
        def each(z, s):
            return functional.cross_entropy(z, s)

        whole = functional.cross_entropy(logits, SETS)
        torch.testing.assert_close(torch.func.vmap(each)(logits, SETS), whole)
        compiled = torch.compile(functional.cross_entropy, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(logits, SETS), whole)

    @pytest.mark.parametrize("key", TAKING)
    def test_a_row_without_a_candidate(self, key, logits):
        sets = SETS.clone()
        sets[2] = False
        with pytest.raises(DataError, match=r"^row 2: expected at least one candidate"):
            build(key)(logits, sets)

    def test_a_set_of_another_shape(self, logits):
        with pytest.raises(ValueError, match=r"shape \(4, 5\), got torch.bool of shape \(4, 4\)"):
            build("ce")(logits, SETS[:, :4])
        for other in (SETS.long(), SETS.float()):
            with pytest.raises(ValueError, match=f"expected candidates, bool, .*{other.dtype}"):
                functional.candidate_weights(logits, other)

    @pytest.mark.parametrize("key", sorted(set(LOSSES) - set(TAKING)))
    def test_losses_that_take_no_sets(self, key, logits):
        loss = build(key)
        with pytest.raises(TypeError, match="is not defined for sets of candidates") as refusal:
            loss(logits, SETS)
        # What is named in its place is there.
        assert ("CandidateLoss of it" in str(refusal.value)) is not loss.needs_indices
        if not loss.needs_indices and "matrix" not in loss.beyond_examples():
            assert CandidateLoss(loss)(logits, SETS).isfinite()

    @pytest.mark.parametrize("option", [{"weight": torch.ones(5)}, {"label_smoothing": 0.1}])
    def test_weights_and_smoothing_are_refused(self, option, logits):
        with pytest.raises(TypeError, match="not defined for sets of candidates"):
            build("ce", **option)(logits, SETS)

    def test_the_warning_of_a_collapse_counts_sets(self, recwarn):
        logits = torch.zeros(16, 5)
        logits[:, 0] = 9.0
        sets = torch.zeros(16, 5, dtype=torch.bool)
        sets[:, 1] = True
        for candidates in (sets | (torch.arange(5) == 0), sets):
            assert not recwarn.list
            loss = build("ce")
            for _ in range(30):
                loss(logits, candidates)
        assert "predicts class 0 alone" in str(recwarn.pop(UserWarning).message)


class TestWeights:
    @pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0, 3.0])
    def test_are_powers_of_predictions_within_the_set(self, sharpness, logits):
        found = functional.candidate_weights(logits, SETS, sharpness=sharpness)
        assert not found.requires_grad
        for weights, z, row in zip(found.tolist(), logits.tolist(), SETS.tolist(), strict=True):
            powers = [p**sharpness * s for p, s in zip(naive.softmax(z), row, strict=True)]
            assert weights == pytest.approx([x / sum(powers) for x in powers])

    def test_of_logits_of_minus_infinity(self):
        logits = torch.tensor([[-math.inf, 0.0, 0.0], [-math.inf, -math.inf, 0.0]])
        sets = torch.tensor([[True, True, False], [True, True, False]])
        assert functional.candidate_weights(logits, sets).tolist() == [[0, 1, 0], [0.5, 0.5, 0]]
        even = functional.candidate_weights(logits, sets, sharpness=0.0)
        assert even.tolist() == [[0.5, 0.5, 0]] * 2

    def test_are_refused_for_other_shapes_and_empty_sets(self, logits):
        with pytest.raises(ValueError, match="shape"):
            functional.candidate_weights(logits, SETS[:, :4])
        with pytest.raises(DataError, match="row 0"):
            functional.candidate_weights(logits, SETS & False)


class TestCandidateLoss:
    @pytest.mark.parametrize("key", ["ce", "gce", "dal", "nce", "btl"])
    @pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
    def test_is_the_expectation_under_its_weights(self, key, progress, logits):
        loss = CandidateLoss(build(key, reduction="none"), start=0.5, end=2.0)
        loss.progress = progress
        assert loss.sharpness == pytest.approx(0.5 + 1.5 * progress)
        weights = functional.candidate_weights(logits, SETS, sharpness=loss.sharpness)
        each = torch.stack(
            [loss.loss(logits, torch.full((4,), label)) for label in range(5)], dim=1
        )
        torch.testing.assert_close(loss(logits, SETS), (weights * each).sum(1))

    def test_cross_entropy_at_sharpness_1_has_the_gradient_of_the_total_probability(self, logits):
        progressive = CandidateLoss(build("ce"), start=1.0, end=1.0)
        (ours,) = torch.autograd.grad(progressive(logits, SETS), [logits])
        (total_probability,) = torch.autograd.grad(build("ce")(logits, SETS), [logits])
        torch.testing.assert_close(ours, total_probability)

    def test_one_candidate_is_the_ordinary_loss(self, logits):
        labels = torch.tensor([2, 0, 4, 1])
        loss = CandidateLoss(build("gce"))
        torch.testing.assert_close(
            loss(logits, one_hot(labels, 5).bool()), build("gce")(logits, labels)
        )
        assert loss(logits, labels) == build("gce")(logits, labels)

    def test_shares_the_progress_of_its_loss(self):
        loss = CandidateLoss(build("dal"))
        loss.progress = 0.5
        assert loss.loss.progress == 0.5
        assert loss.dynamic() == {**loss.loss.dynamic(), "sharpness": 1.0}
        assert "start=0, end=2" in repr(loss)

    def test_state_goes_on(self):
        loss, other = CandidateLoss(build("dal")), CandidateLoss(build("dal"))
        loss.progress = 0.25
        other.load_state_dict(loss.state_dict())
        assert other.progress == 0.25

    def test_is_refused(self):
        with pytest.raises(ConfigError, match="not defined for class probabilities"):
            CandidateLoss(build("nlnl"))
        with pytest.raises(ConfigError, match="end must be"):
            CandidateLoss(build("ce"), end=-1.0)


class TestDraws:
    def test_every_candidate_of_a_set_alike(self):
        sets = torch.tensor([[True, False, True]]).expand(4000, 3)
        drawn = draw_candidate(sets, seed=0)
        counts = drawn.bincount(minlength=3)
        assert counts[1] == 0
        assert abs(int(counts[0]) - 2000) < 150
        assert drawn.equal(draw_candidate(sets, seed=0))

    def test_sets_that_are_none(self):
        with pytest.raises(DataError, match=r"row 1: .* got none \(2 such rows\)"):
            check_sets(torch.tensor([[True], [False], [False]]), 3)
        with pytest.raises(DataError, match="expected bool of shape"):
            check_sets(torch.ones(3, 2), 3)


def test_the_code_on_their_page_runs(capsys):
    page = Path(__file__).parents[1] / "docs" / "candidates.md"
    blocks = [part.split("```")[0] for part in page.read_text().split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
    assert "tensor(" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["forward", "backward"])
def test_a_matrix_is_not_estimated_from_sets(key):
    with pytest.raises(ConfigError, match="give it a matrix"):
        CandidateLoss(build(key))
    CandidateLoss(build(key, matrix=[[0.8, 0.2], [0.2, 0.8]]))
