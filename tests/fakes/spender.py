"""A process that spends a tenant's budget until it is refused or killed: `python -m tests.fakes.spender URL`.

It writes what it has spent, a line each time.
"""

import asyncio
import sys
from random import Random

import structlog

from gateway.allowances import Budget
from gateway.budgets import Budgets
from gateway.errors import QuotaExceeded
from regions.names import RegionId
from regions.registers.jetstream import Config, JetStreamRegisters
from regions.runtime import lifecycle

HOME = RegionId("us-east")


async def main(url: str, tenant: str, usd: float, step_usd: float) -> None:
    registers = JetStreamRegisters(Config(urls=[url]), region=HOME, token=None)
    budgets = Budgets(
        f"process-{Random().random()}",
        HOME,
        {HOME: registers},
        default_home=HOME,
        now=lambda _: lifecycle.wall_clock(),
        log=structlog.stdlib.get_logger(),
        rng=Random(),
    )
    spent_usd = 0.0
    async with budgets.running():
        try:
            while True:
                held = await budgets.reserve(tenant, Budget(monthly_usd=usd), step_usd, wait_s=5.0)
                held.settle(step_usd)
                spent_usd += step_usd
                print(spent_usd, flush=True)
        except QuotaExceeded as error:
            print(error.reason, flush=True)
    await registers.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
