"""A realistic report: 40 jobs of three teams, a week, on six pools."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from cost_models.ledger import Ledger, Line, LineKind, micros
from cost_models.report import (
    Assumption,
    Capacity,
    LeftOut,
    Measured,
    Outcome,
    Proof,
    Report,
)

START = datetime(2026, 12, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class PoolFacts:
    name: str
    accelerator: str
    purchase: str
    gpus: int
    usd: float  # money per GPU-hour
    sunk_usd: float  # per GPU-hour, beside the money
    watts: float
    grams_per_kwh: float
    tflops: float  # sustained, useful


POOLS = (
    PoolFacts("a100-owned", "a100-sxm4-80gb", "owned", 64, 0.045, 0.92, 480, 380, 140),
    PoolFacts("h100-owned", "h100-sxm5-80gb", "owned", 64, 0.075, 1.71, 850, 380, 410),
    PoolFacts("h100-us-east", "h100-sxm5-80gb", "on_demand", 64, 6.88, 0, 850, 365, 410),
    PoolFacts("b200-eu-north", "b200-sxm-180gb", "on_demand", 32, 5.90, 0, 1250, 28, 900),
    PoolFacts("l40s-spot", "l40s", "spot", 32, 0.87, 0, 380, 300, 95),
    PoolFacts("l4-edge-berlin", "l4", "owned", 8, 0.03, 0.21, 95, 350, 30),
)
BY_NAME = {pool.name: pool for pool in POOLS}

# job, team, project, pool, first hour, hours, GPUs
JOBS = (
    ("llama-70b-continued-pretrain", "research", "foundation", "h100-owned", 0, 96, 32),
    ("olmo-2-13b-pretrain", "research", "foundation", "h100-owned", 0, 54, 16),
    ("qwen-3-32b-longcontext", "research", "foundation", "h100-owned", 54, 61, 16),
    ("deepseek-distill-8b", "research", "foundation", "h100-owned", 96, 48, 32),
    ("mixtral-8x7b-router-study", "research", "moe-study", "a100-owned", 0, 70, 32),
    ("mixtral-8x22b-router-study", "research", "moe-study", "h100-us-east", 6, 41, 32),
    ("gpt-oss-120b-rl", "research", "reasoning", "b200-eu-north", 4, 60, 16),
    ("gpt-oss-20b-rl", "research", "reasoning", "b200-eu-north", 64, 40, 8),
    ("qwen-3-8b-grpo", "research", "reasoning", "h100-owned", 0, 40, 8),
    ("qwen-3-8b-grpo-ablation", "research", "reasoning", "h100-owned", 40, 44, 8),
    ("eval-sweep-mmlu", "research", "evaluation", "l40s-spot", 2, 14, 16),
    ("eval-sweep-code", "research", "evaluation", "l40s-spot", 17, 11, 16),
    ("eval-sweep-long", "research", "evaluation", "a100-owned", 72, 18, 16),
    ("llama-8b-sft", "nlp", "assistant", "a100-owned", 0, 22, 16),
    ("llama-8b-dpo", "nlp", "assistant", "a100-owned", 22, 30, 16),
    ("llama-70b-sft", "nlp", "assistant", "a100-owned", 72, 58, 32),
    ("llama-70b-dpo", "nlp", "assistant", "h100-owned", 116, 30, 16),
    ("assistant-judge", "nlp", "assistant", "a100-owned", 53, 16, 8),
    ("mistral-7b-lora-legal", "nlp", "legal", "l40s-spot", 0, 9, 8),
    ("mistral-7b-lora-medical", "nlp", "medical", "l40s-spot", 9, 12, 8),
    ("gemma-2-27b-lora-de", "nlp", "translation", "a100-owned", 0, 20, 8),
    ("gemma-2-27b-lora-fr", "nlp", "translation", "a100-owned", 20, 20, 8),
    ("gemma-2-27b-lora-pl", "nlp", "translation", "a100-owned", 40, 20, 8),
    ("gemma-2-9b-lora-nl", "nlp", "translation", "a100-owned", 91, 12, 8),
    ("batch-embed-corpus", "nlp", "search", "l40s-spot", 30, 40, 16),
    ("batch-embed-tickets", "nlp", "search", "l40s-spot", 70, 20, 8),
    ("rerank-distill", "nlp", "search", "a100-owned", 104, 36, 8),
    ("vision-detector-train", "product", "vision", "a100-owned", 0, 34, 8),
    ("vision-detector-tune", "product", "vision", "a100-owned", 130, 20, 16),
    ("vision-ocr", "product", "vision", "l40s-spot", 92, 30, 8),
    ("speech-whisper-ft", "product", "speech", "l40s-spot", 36, 28, 8),
    ("speech-tts", "product", "speech", "l40s-spot", 100, 46, 8),
    ("edge-quantize", "product", "edge", "l4-edge-berlin", 0, 26, 4),
    ("edge-camera-inference", "product", "edge", "l4-edge-berlin", 0, 168, 4),
    ("edge-asr-inference", "product", "edge", "l4-edge-berlin", 30, 120, 2),
    ("batch-summaries", "product", "support", "h100-us-east", 30, 24, 8),
    ("batch-moderation", "product", "support", "l40s-spot", 124, 30, 16),
    ("recsys-retrain", "product", "ads", "a100-owned", 140, 20, 16),
    ("recsys-backfill", "product", "ads", "b200-eu-north", 20, 12, 8),
)
CURVE = (8, 8, 16, 24, 24, 16)  # GPUs of the chat service, by four hours


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def line(pool: PoolFacts, start: float, hours: float, gpus: float, kind: LineKind) -> Line:
    """One line at the pool's rates."""
    gpu_hours = hours * gpus
    energy = gpu_hours * pool.watts * 3600 if kind is LineKind.WORK else 0.0
    sunk = pool.sunk_usd * gpu_hours
    paid = pool.usd * gpu_hours if kind is LineKind.WORK or not pool.sunk_usd else 0.0
    return Line(
        start=at(start),
        end=at(start + hours),
        kind=kind,
        pool=pool.name,
        accelerator=pool.accelerator,
        purchase=pool.purchase,
        gpus=gpus,
        gpu_hours=gpu_hours,
        usd_micros=micros(paid),
        full_usd_micros=micros(paid + sunk),
        joules=energy,
        grams_co2=energy / 3.6e6 * pool.grams_per_kwh,
        useful_flops=gpu_hours * 3600 * pool.tflops * 1e12 if kind is LineKind.WORK else 0.0,
    )


def work(
    name: str, team: str, project: str, pool: str, start: float, hours: float, gpus: int
) -> Line:
    facts = BY_NAME[pool]
    nodes = tuple(f"{pool}-{n:02d}" for n in range(max(1, gpus // 8)))
    made = line(facts, start, hours, gpus, LineKind.WORK)
    return replace(made, job=name, team=team, project=project, queue=team, nodes=nodes)


def service() -> list[Line]:
    """A chat service that follows the day, on rented H100."""
    return [
        work("chat-llama-70b", "product", "chat", "h100-us-east", day * 24 + i * 4, 4, gpus)
        for day in range(7)
        for i, gpus in enumerate(CURVE)
    ]


def idle_of(pool: PoolFacts, lines: list[Line]) -> list[Line]:
    """Idle GPUs hour by hour: all that is not used of owned pools, an eighth of rented nodes."""
    found = []
    for hour in range(168):
        busy = sum(x.gpus for x in lines if x.start <= at(hour) < x.end)
        spare = pool.gpus - busy if pool.sunk_usd else min(busy // 8, pool.gpus - busy)
        if spare > 0:
            found.append(line(pool, hour, 1, spare, LineKind.IDLE))
    return found


def ledger_of(works: list[Line]) -> Ledger:
    lines = list(works)
    for pool in POOLS:
        ours = [x for x in works if x.pool == pool.name]
        lines += idle_of(pool, ours)
        if not pool.sunk_usd and ours:
            first = min(x.start for x in ours)
            hour = (first - START) / timedelta(hours=1)
            lines.append(line(pool, hour - 0.25, 0.25, ours[0].gpus, LineKind.STARTUP))
    return Ledger(start=START, end=START + WEEK, lines=tuple(lines))


def first_come() -> Ledger:
    """The same jobs, more of them on rented hardware."""
    moved = {"h100-owned": "h100-us-east", "a100-owned": "l40s-spot"}
    rows = [
        (name, team, project, moved.get(pool, pool) if i % 4 == 0 else pool, start, hours, gpus)
        for i, (name, team, project, pool, start, hours, gpus) in enumerate(JOBS)
    ]
    return ledger_of([work(*row) for row in rows] + service())


@pytest.fixture(scope="session")
def sample() -> Report:
    ledger = ledger_of([work(*row) for row in JOBS] + service())
    missed = LeftOut(
        job="video-diffusion-pretrain",
        team="research",
        reason="capacity",
        message="needs 64 GPUs at once for 80 h; h100-us-east has at most 40 free by then",
        not_running_usd=9_000.0,
    )
    plan = Outcome(ledger=ledger, jobs=40, lateness_usd=140.0, left_out=(missed,))
    bound = plan.objective_usd * 0.9946
    runs = tuple(
        Measured(
            job=name,
            pool=pool,
            status="succeeded",
            planned_start=at(start),
            planned_end=at(start + hours),
            start=at(start + 0.2),
            end=at(start + 0.2 + hours * (0.97 + 0.01 * (i % 9))),
        )
        for i, (name, _, _, pool, start, hours, _) in enumerate(JOBS)
    )
    return Report(
        title="GPU cost of the week",
        plan=plan,
        baseline=Outcome(ledger=first_come(), jobs=40, lateness_usd=860.0, left_out=(missed,)),
        proof=Proof(
            status="feasible",
            bound_usd=bound,
            gap_fraction=(plan.objective_usd - bound) / (plan.objective_usd - 9_000.0),
            method="cp-sat",
            relaxes=("nodes within a pool",),
            solve_seconds=1.62,
        ),
        capacity=tuple(
            Capacity(pool=pool.name, start=at(a), end=at(b), gpus=gpus)
            for pool in POOLS
            for a, b, gpus in (
                [(0, 168, pool.gpus)]
                if pool.name != "a100-owned"
                else [(0, 96, 64), (96, 120, 56), (120, 168, 64)]
            )
        ),
        measured=runs,
        stand_ins=(
            "These runs were small stand-ins on CPUs, 3,600 times faster than the plan's time: they"
            " show its order and its gangs, not the speed of GPUs."
        ),
        assumptions=(
            Assumption(
                what="Price of h100-us-east",
                value="$6.88 per GPU-hour, on demand, whole nodes",
                source="AWS p5.48xlarge, us-east-1, 2026-11-20",
            ),
            Assumption(
                what="Owned nodes",
                value="annuity over 5 years at 8 %, 10 % salvage",
                source="GpuPool h100-owned, spec.owned",
            ),
        ),
    )
