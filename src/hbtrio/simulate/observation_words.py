"""Says in plain words what was observed, for the timeline of a violation."""

from __future__ import annotations

import attrs

from hbtrio.simulate.observations import (
    AGENT,
    ActionBegan,
    ActionEnded,
    Asked,
    Began,
    CarriedOut,
    CommandBegan,
    CommandEnded,
    Crashed,
    Decided,
    Grouped,
    Leftover,
    Measured,
    Notified,
    Observation,
    Over,
    Placed,
    ProcessStarted,
    Recorded,
    RejectArrived,
    Reported,
    Status,
    Struck,
    Verdict,
)
from hbtrio.simulate.order_observations import (
    DrainBegan,
    DrainEnded,
    HoldEnded,
    HoldSet,
    Planned,
    PlanStepped,
    Refused,
)


@attrs.frozen
class Words:
    """Whom an observation is about, and what was observed."""

    who: str
    text: str


def words_of(observation: Observation) -> Words:
    """Returns whom an observation is about, and what was observed."""
    match observation:
        case Struck(who=who, kind=kind):
            return Words(who, f"fault: {kind}")
        case Began(who=who, condition=condition):
            return Words(who, condition.value)
        case Over(who=who, condition=condition):
            return Words(who, f"over: {condition.value}")
        case Placed(instance=instance, host=host):
            return Words(instance, f"runs on {host}")
        case Grouped(host=host, most=most, members=members):
            whom = ", ".join(members) or "its instances"
            return Words(host, f"at most {most} of {whom} may be unavailable")
        case ProcessStarted(process=process):
            return Words(process, "started")
        case Crashed(process=process, error=error):
            return Words(process, f"programming error: {error}")
        case Leftover(process=process, what=what, name=name):
            return Words(process, f"still there: {what.value} {name}")
        case Measured(process=process, what=what, value=value):
            return Words(process, f"holds {value:g} {what}")
        case Status(who=who, well=well, detail=detail):
            return Words(who, "well in the end" if well else f"not well in the end: {detail}")
        case Reported(instance=instance, host=host, kind=kind, cause=cause):
            return Words(instance, f"{host} reports {kind}{f' ({cause})' if cause else ''}")
        case Asked(instance=instance, request=request, vote=vote, event=event, owner=owner):
            what = "vote" if vote else "notice"
            return Words(instance, f"{owner.value} asks for a {what} about {event} ({request})")
        case RejectArrived(process=process, request=request):
            return Words(process, f"a reject of {request} arrives")
        case Decided(process=process, request=request, result=result, overridden=overridden):
            over = ", overridden" if overridden else ""
            return Words(process, f"decides {request}: {result}{over}")
        case Verdict(request=request, result=result):
            return Words(AGENT, f"its verdict about {request} arrives: {result}")
        case Recorded(request=request, result=result):
            return Words(AGENT, f"history: {request} {result}")
        case Notified(instance=instance, event=event):
            return Words(instance, f"is told of {event}")
        case ActionBegan(instance=instance, owner=owner, action=action):
            return Words(instance, f"an action of {owner.value} begins ({action})")
        case ActionEnded(action=action):
            return Words(AGENT, f"action {action} is over")
        case CommandBegan(instance=instance, name=name, purpose=purpose, command=command):
            return Words(instance, f"command {name} {purpose.value} begins ({command})")
        case CommandEnded(command=command, outcome=outcome):
            return Words(AGENT, f"command {command}: {outcome}")
        case CarriedOut(process=process, request=request):
            return Words(process, f"carries out {request}")
        case HoldSet(instance=instance, host=host, until_s=until_s, stored=stored):
            kept = "" if stored else ", not stored"
            return Words(instance, f"{host} holds it until {until_s:.3f} s{kept}")
        case HoldEnded(instance=instance, certain=certain):
            return Words(instance, "its hold is ended" if certain else "is to be held no more")
        case DrainBegan(drain=drain, host=host, most=most):
            return Words(host, f"drain {drain} begins, at most {most} at once")
        case DrainEnded(drain=drain, outcome=outcome):
            return Words("operators", f"drain {drain} is over: {outcome}")
        case Planned(instance=instance, plan=plan, not_before_s=not_before_s, before_s=before_s):
            return Words(instance, f"{plan} is planned for {not_before_s:.3f} to {before_s:.3f} s")
        case PlanStepped(plan=plan, state=state, reason=reason):
            return Words("operators", f"plan {plan}: {state}{f', {reason}' if reason else ''}")
        case Refused(process=process, request=request):
            return Words(process, f"refuses {request}, which came too late")
    raise TypeError(f"no words for {observation}")
