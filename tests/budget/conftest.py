"""A real Redis of a test's own, and a client of it beside the ledger's."""

import pytest
from redis.asyncio import Redis
from support.redis_server import RedisServer


@pytest.fixture
def server(tmp_path):
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
async def admin(server):
    async with Redis.from_url(server.url, decode_responses=True) as connected:
        yield connected
