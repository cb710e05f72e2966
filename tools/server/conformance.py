#!/usr/bin/env python3
"""Runs Triton's own client, unmodified, against a server of the built-in network.

    python tools/server/conformance.py target/release/skipstone

Needs `pip install -r tools/server/requirements.txt`. Exits with 1 at the first thing that is not so.
"""

import base64
import sys

import numpy as np
import tritonclient.http as triton
from serving import CALM, MODEL, PHOTO, Server
from tritonclient.utils import InferenceServerException


def tensor(name, array, datatype, binary):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def metadata(client):
    assert client.is_server_live() and client.is_model_ready(MODEL)
    assert not client.is_model_ready("none")
    extensions = client.get_server_metadata()["extensions"]
    assert {"binary_tensor_data", "classification", "statistics"} <= set(extensions), extensions
    about = client.get_model_metadata(MODEL)
    assert client.get_model_metadata(MODEL, "1") == about
    assert client.get_model_repository_index()[0]["state"] == "READY"
    return about["inputs"][0], about["outputs"][0]


def tensors(client, given, wanted):
    """Returns the logits of the same image, however it was sent and received."""
    shape = [2, *given["shape"][1:]]
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    # The recipe of this network: its mean in BGR, nothing else.
    floats = pixels.astype(np.float32) - np.array([104, 117, 123], np.float32)
    results = []
    for array, datatype in [(floats, "FP32"), (pixels, "UINT8")]:
        for binary in [True, False]:
            outputs = [triton.InferRequestedOutput(wanted["name"], binary_data=binary)]
            inputs = [tensor(given["name"], array, datatype, binary)]
            result = client.infer(MODEL, inputs, outputs=outputs, request_id="7", timeout=60_000_000)
            assert result.get_response()["id"] == "7"
            results.append(result.as_numpy(wanted["name"]))
    assert results[0].shape == (2, 2), results[0].shape
    for result in results[1:]:
        assert np.array_equal(result, results[0]), (result, results[0])


def images(client, given, wanted):
    """Photographs as byte strings, and their classes."""
    photo = PHOTO.read_bytes()
    encoded = base64.b64encode(photo)
    inputs = [tensor(given["name"], np.array([photo, photo], object), "BYTES", True)]
    scores = client.infer(MODEL, inputs).as_numpy(wanted["name"])
    assert np.array_equal(scores[0], scores[1]) and scores[0, 0] > scores[0, 1], scores
    inputs = [tensor(given["name"], np.array([encoded], object), "BYTES", False)]
    assert np.array_equal(client.infer(MODEL, inputs).as_numpy(wanted["name"])[0], scores[0])
    for binary in [True, False]:
        outputs = [triton.InferRequestedOutput(wanted["name"], binary_data=binary, class_count=2)]
        classes = client.infer(MODEL, inputs, outputs=outputs).as_numpy(wanted["name"])
        assert classes.shape == (1, 2), classes
        best = classes[0, 0]
        value, index, label = (best.decode() if binary else best).split(":")
        assert (index, label) == ("0", "sfw") and abs(float(value) - scores[0, 0]) < 1e-5, classes


def errors(client, given):
    wrong = np.zeros([1, 3, 3, 3], np.float32)
    for name, model in [(given["name"], MODEL), ("other", MODEL), (given["name"], "none")]:
        try:
            client.infer(model, [tensor(name, wrong, "FP32", True)])
        except InferenceServerException as error:
            assert error.message(), error
        else:
            raise AssertionError(f"{model} took {name}")


def statistics(client):
    stats = client.get_inference_statistics(MODEL)["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] == 8, stats
    assert stats["inference_stats"]["fail"]["count"] == 2, stats
    assert stats["inference_count"] == 13, stats
    assert stats["batch_stats"], stats
    assert client.get_inference_statistics()["model_stats"][0]["name"] == MODEL


def main():
    with (
        Server(sys.argv[1], *CALM) as server,
        triton.InferenceServerClient(server.address, network_timeout=120) as client,
    ):
        given, wanted = metadata(client)
        tensors(client, given, wanted)
        images(client, given, wanted)
        errors(client, given)
        statistics(client)
    print("health, metadata, tensors, images, classification, errors, statistics: ok")


if __name__ == "__main__":
    main()
