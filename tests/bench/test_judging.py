"""What is told of an implementation that is not timed because it is wrong."""

import numpy as np

from patchparity import PatchEmbedWeights, patch_embed
from patchparity.bench.cases import named_case
from patchparity.bench.record.rows import Row
from patchparity.bench.timing.judging import first_verdict
from patchparity.bench.worker.operations import FINGERPRINT_IMAGES, timing_probe
from patchparity.bench.worker.server import _packed


def test_a_product_that_is_cut_off_is_named_and_not_only_seen():
    case = named_case("vit-ti32-224-b2")
    row = Row(case.name, "tensorflow:linear:graph", "cpu", "bfloat16", "ieee", 1)
    probe = timing_probe(case.spec, case.batch, "bfloat16", 0, "tokens", False)
    images, bias = probe.images.astype(np.float32), probe.weights.bias.astype(np.float32)
    product = patch_embed(images, PatchEmbedWeights(probe.weights.kernel), case.spec, np.float32)

    def verdict(narrowed):
        tokens = (narrowed.astype(np.float32) + bias).astype(probe.images.dtype)
        fingerprint = _packed(narrowed.astype(probe.images.dtype)[:FINGERPRINT_IMAGES])
        return first_verdict(
            row,
            case,
            0,
            {
                "results": {"forward": _packed(tokens)},
                "weights": None,
                "fingerprint": fingerprint,
                "steps": None,
                "steps_of_twin": None,
            },
        )

    assert verdict(product.astype(probe.images.dtype))["verdict"] == "pass"
    wrong = verdict((product.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))
    assert wrong["verdict"] == wrong["status"] == "fail"
    cause = (
        "not timed, for it is wrong: declared bfloat16 rounded twice, delivered bfloat16 cut "
        "off toward zero"
    )
    assert wrong["message"].startswith(cause)
