"""What this process knows of budgets, as metrics, made when somebody scrapes.

Labels are tenants' ids, which the tenants file bounds. Spending is of all regions as far as it was heard of;
leases and refusals are this process's own.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.budgets import Spending


class BudgetMetrics(Collector):
    """One sample a tenant that has spent here since the process began."""

    def __init__(self, spending: Callable[[], Sequence[Spending]]) -> None:
        self._spending = spending

    def collect(self) -> Iterator[Metric]:
        tenant = ("tenant",)
        budget = GaugeMetricFamily("meridian_budget_usd", "A tenant's budget a month.", labels=tenant)
        ratio = GaugeMetricFamily(
            "meridian_budget_spent_ratio", "Known to be spent this month, of the budget.", labels=tenant
        )
        lease = GaugeMetricFamily(
            "meridian_budget_lease_usd", "What this process may still spend without asking.", labels=tenant
        )
        home = GaugeMetricFamily(
            "meridian_budget_home_up", "Whether the account answered of late: 1 or 0.", labels=tenant
        )
        refused = CounterMetricFamily(
            "meridian_budget_refusals", "Requests that no model was asked for.", labels=("tenant", "reason")
        )
        for each in self._spending():
            budget.add_metric([each.tenant], each.budget_usd)
            ratio.add_metric([each.tenant], each.ratio)
            lease.add_metric([each.tenant], each.lease_usd)
            home.add_metric([each.tenant], float(each.is_home_up))
            for reason, count in each.refusals.items():
                refused.add_metric([each.tenant, reason], count)
        yield from (budget, ratio, lease, home, refused)
