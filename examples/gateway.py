"""An HTTP gateway to the order service (orders/orders.py), with FastAPI.

    pip install fastapi uvicorn
    cd examples && uvicorn gateway:app

All requests share one client, which is connected before the first one and closed after the last.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, TypedDict

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from mb_client import (
    ConnectionLost,
    MBError,
    MessageBrokerClient,
    MessageTooLarge,
    RemoteProtocolError,
    ResponseError,
)

URL = os.environ.get("MB_URL", "tcp://localhost:8081")

# Milliseconds for an answer: less than browsers and proxies wait.
TIMEOUT = 5_000

STATUS = {
    "INVALID_REQUEST": 422,
    "ORDER_NOT_FOUND": 404,
    "NO_ROUTE_FOUND": 503,  # the service is not there
    "SERVICE_UNAVAILABLE": 503,  # it left before it answered, or has too much to do
    "TIMEOUT": 504,
}
"""The HTTP status for each error of a service; 502 for any other."""


class Item(BaseModel):
    sku: str
    quantity: int = Field(ge=1)
    price: Decimal


class PlaceOrder(BaseModel):
    customer: str
    items: list[Item] = Field(min_length=1)


class Order(BaseModel):
    id: int
    customer: str
    items: list[Item]
    total: Decimal


class State(TypedDict):
    client: MessageBrokerClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    async with MessageBrokerClient(URL) as client:
        yield {"client": client}


def client_of(request: Request) -> MessageBrokerClient:
    client: MessageBrokerClient = request.state.client
    return client


Client = Annotated[MessageBrokerClient, Depends(client_of)]
app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(order: PlaceOrder, client: Client) -> Order:
    return await client.request("order.place", order, timeout=TIMEOUT, result=Order)


@app.get("/orders/{order_id}")
async def get_order(order_id: int, client: Client) -> Order:
    # Reading may be repeated, so it may wait for a connection that is lost just now.
    return await client.request(
        "order.get", {"id": order_id}, timeout=TIMEOUT, retry=True, result=Order
    )


@app.get("/health")
async def health(client: Client) -> JSONResponse:
    return JSONResponse({"broker": client.connected}, 200 if client.connected else 503)


@app.exception_handler(MBError)
async def mb_error(request: Request, error: MBError) -> JSONResponse:
    if isinstance(error, ResponseError):
        content = {"detail": error.message, "details": error.details}
        return JSONResponse(content, STATUS.get(error.code, 502))
    if isinstance(error, ConnectionLost):
        # 503: nothing was sent, so ask again. 502: the service may have handled the request.
        status = 502 if error.sent else 503
    elif isinstance(error, RemoteProtocolError):
        status = 502  # an answer that does not fit `result`
    elif isinstance(error, MessageTooLarge):
        status = 413
    else:
        raise error  # a bug in this program
    return JSONResponse({"detail": str(error)}, status)
