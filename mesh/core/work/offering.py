"""What one node says that it offers: the workers that have one capability, as one offer, and a variant for each further version.

    worker render 1, zone=eu   worker render 2.0, gpu   -->  Offer(render, version 1, zone=eu; variants: 2.0, gpu)

The longest attached of each version speaks for it, the tightest limit over the mesh for all. And what holds for work that may run as any of
several: the most careful of their words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.core.directory import ReadDirectory
from mesh.core.work.fitting import fits_worker, kinds
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer, Variant

if TYPE_CHECKING:
    from mesh.core.work.slots import Capability, Worker


def union(capability: Capability, limits: WorkLimits) -> Offer:
    by_version: dict[str, list[Worker]] = {}
    for worker in capability.workers:
        by_version.setdefault(worker.offers[capability.name].version, []).append(worker)
    spoken = [_labelled(capability.name, workers, limits.label_kinds_max) for workers in by_version.values()]
    first, others = spoken[0], spoken[1 : limits.versions_max]
    if not others:
        return first
    limit = min((offer.limit for offer in spoken if offer.limit), default=0)
    rates = [(offer.rate / offer.rate_ms, offer.rate, offer.rate_ms) for offer in spoken if offer.rate and offer.rate_ms]
    _, rate, rate_ms = min(rates, default=(0.0, 0, 0))
    priced = any(offer.priced for offer in spoken)
    return replace(first, priced=priced, limit=limit, rate=rate, rate_ms=rate_ms, variants=tuple(map(_variant, others)))


def _labelled(name: str, workers: list[Worker], most: int) -> Offer:
    offer = workers[0].offers[name]
    found = dict.fromkeys(worker.labels for worker in workers if worker.labels)
    return replace(offer, labels=tuple(sorted(found)[:most])) if found else offer


def _variant(offer: Offer) -> Variant:
    return Variant(
        offer.version,
        offer.agent,
        offer.idempotent,
        offer.timeout_ms,
        offer.retries,
        offer.on_lost,
        offer.input_schema,
        offer.output_schema,
        offer.heartbeat_ms,
        offer.labels,
    )


def variants(offer: Offer) -> tuple[Offer | Variant, ...]:
    return (offer, *offer.variants) if offer.variants else (offer,)


def terms(offer: Offer, where: tuple[str, ...]) -> Offer | Variant:
    """What was declared for work that wants this. Where several would do, the first speaks, and none may repeat what one must not."""
    if not offer.variants:
        return offer
    found = [one for one in variants(offer) if any(fits_worker(kind, where) for kind in kinds(one))] or [offer]
    careful = all(one.idempotent for one in found)
    on_lost = "fail" if any(one.on_lost == "fail" for one in found) else found[0].on_lost
    return found[0] if len(found) == 1 else replace(found[0], idempotent=careful, on_lost=on_lost)


def version_at(directory: ReadDirectory, node: NodeId, capability: str, where: tuple[str, ...]) -> str:
    """The same of work at one node."""
    row = directory.get(node)
    offer = row.offers.get(capability) if row is not None else None
    return version_of(offer, where) if offer is not None else ""


def version_of(offer: Offer, where: tuple[str, ...]) -> str:
    """Which version work that wants this, and fits there, runs as; "": one of several."""
    if not offer.variants:
        return offer.version
    found = [one.version for one in variants(offer) if any(fits_worker(kind, where) for kind in kinds(one))]
    return found[0] if len(found) == 1 else ""
