"""Measures of predictions, against scikit-learn's."""

import numpy as np
import pytest

from rnnx import metrics


def test_scikit_learn_measures_the_same(rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    y, w = rng.integers(0, 3, 40), rng.random(40)
    p = rng.dirichlet(np.ones(3), 40).T.round(1) + 0.001
    p = p / p.sum(axis=0)
    classes = p.argmax(axis=0)
    assert metrics.accuracy(y, p, weights=w) == pytest.approx(sklearn.accuracy_score(y, classes, sample_weight=w))
    for average in ("macro", "micro", "weighted"):
        assert metrics.f1_score(y, p, average=average) == pytest.approx(sklearn.f1_score(y, classes, average=average))
    np.testing.assert_allclose(metrics.f1_score(y, p, average="none"), sklearn.f1_score(y, classes, average=None))
    assert metrics.f1_score(y == 1, classes == 1, average="binary") == pytest.approx(
        sklearn.f1_score(y == 1, classes == 1)
    )
    assert metrics.roc_auc(y, p) == pytest.approx(sklearn.roc_auc_score(y, p.T, multi_class="ovr"))
    assert metrics.roc_auc(y == 1, p[1]) == pytest.approx(sklearn.roc_auc_score(y == 1, p[1]))
    a, b = rng.standard_normal((2, 2, 20))
    flat, weights = (a.ravel(), b.ravel()), np.tile(w[:20], 2)
    for ours, theirs in (
        (metrics.mean_absolute_error, sklearn.mean_absolute_error),
        (metrics.root_mean_squared_error, sklearn.root_mean_squared_error),
        (lambda a, b, weights: metrics.pinball_loss(a, b, 0.2, weights=weights),
         lambda a, b, sample_weight: sklearn.mean_pinball_loss(a, b, alpha=0.2, sample_weight=sample_weight)),
    ):  # fmt: skip
        assert ours(a, b, weights=w[:20]) == pytest.approx(theirs(*flat, sample_weight=weights))


def test_values():
    assert metrics.accuracy([1, 0, 1], [1, 1, 1]) == pytest.approx(2 / 3)
    assert metrics.roc_auc([0, 1, 1], [[0.2, 0.9, 0.5], [0.8, 0.1, 0.5]]) == 0
    assert metrics.coverage([1, 2, 3], [0, 2, 4], [1, 3, 5]) == pytest.approx(2 / 3)
    history, future = np.array([[0.0, 1, 2, 1, 2, 3]]), np.array([[2.0, 3, 4]])
    assert metrics.mean_absolute_scaled_error(future, future + 0.5, history) == pytest.approx(0.5)
    assert metrics.mean_absolute_scaled_error(future, future + 0.5, history, season=3) == pytest.approx(0.5)
    assert metrics.f1_score([0, 0], [0, 0], average="binary") == 0


def test_messages():
    masked = np.ma.masked_equal([1.0, 2.0], 1)
    for call, error, message in (
        (lambda: metrics.accuracy([0, 1], [0]), ValueError, "`predictions` must have shape"),
        (lambda: metrics.accuracy([], []), ValueError, "at least one"),
        (lambda: metrics.mean_absolute_error(masked, [1, 2]), TypeError, "MaskedArray, whose mask"),
        (lambda: metrics.mean_absolute_error([], []), ValueError, "at least one"),
        (lambda: metrics.roc_auc([1, 1], [0, 1]), ValueError, "positive and negative"),
        (lambda: metrics.mean_absolute_scaled_error([1], [1], [1, 1]), ValueError, "must change"),
        (lambda: metrics.mean_absolute_scaled_error([1], [1], [1]), ValueError, "T > season = 1"),
        (lambda: metrics.pinball_loss([1], [1], 1), ValueError, "`quantile` must be"),
        (lambda: metrics.f1_score([1], [1], average="samples"), ValueError, "`average` must be one of"),
        (lambda: metrics.accuracy([1], [1], weights=[0]), ValueError, "`weights` must be"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_scores_that_are_nan_have_no_order():
    with pytest.raises(ValueError, match="`scores` must not hold NaN"):
        metrics.roc_auc([0, 1, 0, 1], [0.1, np.nan, 0.2, 0.3])
