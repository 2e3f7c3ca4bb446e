"""The doors of the data path: what `lifecycle` sees of the world outside it.

Adapters behind them: `server/http1.py` (Downstream), `upstream/` (Upstreams, Exchange), `store/`
(BudgetStore), `telemetry/recorder.py` (Recorder), `tokenizer.py` (Tokenizer).
"""

from gateway.ports.budget_store import (
    Background,
    BackgroundCall,
    BudgetStore,
    Keys,
    ReservePlan,
    Settled,
    Settlement,
    Stale,
    StaleFacts,
    StaleKey,
    StalePhase,
    StaleSession,
    StaleSwitch,
    TaskFacts,
    TooManyTasks,
)
from gateway.ports.doors import Clock, Doors, NewCallId
from gateway.ports.http import (
    Answer,
    Downstream,
    Exchange,
    Flow,
    Request,
    ResponseSink,
    Upstreams,
    Wording,
)
from gateway.ports.recording import CallRecord, Recorder, Tokenizer
from gateway.ports.sockets import ClientEnd, OpenedSocket, Socket, SocketSink, SocketUpstreams

__all__ = [
    "Answer",
    "Background",
    "BackgroundCall",
    "BudgetStore",
    "CallRecord",
    "ClientEnd",
    "Clock",
    "Doors",
    "Downstream",
    "Exchange",
    "Flow",
    "Keys",
    "NewCallId",
    "OpenedSocket",
    "Recorder",
    "Request",
    "ReservePlan",
    "ResponseSink",
    "Settled",
    "Settlement",
    "Socket",
    "SocketSink",
    "SocketUpstreams",
    "Stale",
    "StaleFacts",
    "StaleKey",
    "StalePhase",
    "StaleSession",
    "StaleSwitch",
    "TaskFacts",
    "Tokenizer",
    "TooManyTasks",
    "Upstreams",
    "Wording",
]
