import numpy as np

from v2t_cli.core.similarity import row_cosine, unit_rows


def test_rows_of_length_one():
    unit = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [-1, 0]], atol=1e-6)


def test_cosines_are_those_of_the_same_rows():
    left, right = np.array([[1.0, 0], [2, 2], [0, 0]]), np.array([[2.0, 0], [-1, -1], [1, 0]])
    cosine = row_cosine(left, right)
    assert cosine.dtype == np.float32
    np.testing.assert_allclose(cosine, [1, -1, 0], atol=1e-6)


def test_the_scale_of_a_vector_does_not_count():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 7, 5))
    cosine = row_cosine(left, right)
    np.testing.assert_allclose(cosine, row_cosine(1e3 * left, 1e-3 * right), atol=1e-6)
    np.testing.assert_allclose(cosine, np.diag(unit_rows(left) @ unit_rows(right).T), atol=1e-6)
