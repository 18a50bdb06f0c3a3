"""The rule that takes the correction's products in the recipe's precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.schema import Recipe, SGDSection

RECIPE = Recipe(name="net-sgd", optimizer=SGDSection(lr=0.1, momentum=0.9), epochs=90, batch_size=128)


@pytest.mark.parametrize(("precision", "products"), [("tf32", "tf32"), ("bf16", "bf16"), ("fp16", "bf16")])
def test_reduced_precision_reaches_the_products_with_its_reason(precision, products):
    made = bootstrap(replace(RECIPE, precision=precision))
    assert made.recipe.optimizer.product_precision == products
    (derivation,) = [d for d in made.derivations if d.field == "optimizer.product_precision"]
    assert (derivation.before, derivation.after) == (None, products)
    assert precision in derivation.rule


def test_full_precision_says_nothing_of_products():
    made = bootstrap(RECIPE)
    assert made.recipe.optimizer.product_precision == "fp32"
    assert not [d for d in made.derivations if d.field == "optimizer.product_precision"]
