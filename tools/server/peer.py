"""What many would write: FastAPI before ONNX Runtime. Started by compare.py, with uvicorn.

PEER_MODEL is the ONNX file; PEER_STREAMS the requests that run at a time, which share PEER_THREADS.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

streams, threads = int(os.environ["PEER_STREAMS"]), int(os.environ["PEER_THREADS"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = max(1, threads // streams)
session = onnxruntime.InferenceSession(
    os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
shape = [1, *given.shape[1:]]
pool = ThreadPoolExecutor(streams)
app = FastAPI()


def run(body):
    image = np.frombuffer(body, np.float32).reshape(shape)
    return session.run(None, {given.name: image})[0].tobytes()


@app.post("/infer")
async def infer(request: Request):
    """A tensor's bytes in, the first output's bytes out."""
    body = await request.body()
    return Response(await asyncio.get_running_loop().run_in_executor(pool, run, body))
