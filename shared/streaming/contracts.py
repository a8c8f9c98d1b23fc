"""What the clickstream is: the fields of an event, the tables that it fills, and the rules that an event must meet."""

from __future__ import annotations

from shared.control_table import Rule, identifies

BRONZE = "bronze.clickstream_raw"
EVENTS = "silver.clickstream_events"
SESSIONS = "silver.clickstream_sessions"
TRAFFIC = "gold.hourly_traffic_metrics"
LOG = "ops.stream_log"
GAPS = "ops.stream_gaps"

MADE_FROM = {EVENTS: (BRONZE,), SESSIONS: (EVENTS,), TRAFFIC: (EVENTS, SESSIONS)}
"""Table to the tables that a micro-batch makes it from."""

FUNNEL = ("page_view", "product_view", "add_to_cart", "checkout", "purchase")
"""The steps on the way to a purchase, in their order."""

EVENT_TYPES = (*FUNNEL, "search")

GAP_MINUTES = 30
"""A session ends when its user has done nothing for so long."""

EVENT_COLUMNS = {
    "event_id": ("STRING", "business key of the event, set by the producer"),
    "user_id": ("STRING", "visitor; the record's Kafka key"),
    "session_id": ("STRING", "the producer's own session, to compare ours with"),
    "event_type": ("STRING", "page_view, product_view, search, add_to_cart, checkout or purchase"),
    "page": ("STRING", "path of the page"),
    "product_id": ("STRING", "product shown or bought, else NULL"),
    "device": ("STRING", "kind of device"),
    "referrer": ("STRING", "where the visitor came from, else NULL"),
    "event_ts": ("TIMESTAMP", "instant of the event, by the producer's clock, UTC"),
    "schema_version": ("INT", "version of the event's form"),
}
"""The fields of an event, by the names they have in the JSON."""

BRONZE_COLUMNS = {
    **EVENT_COLUMNS,
    "_malformed": ("STRING", "the message as text, if it is no JSON object; else NULL"),
    "_extra": ("MAP<STRING, STRING>", "fields that the message has and the contract does not; else NULL"),
    "raw_value": ("BINARY", "the record's bytes as received"),
    "topic": ("STRING", "Kafka topic"),
    "partition": ("INT", "Kafka partition"),
    "offset": ("BIGINT", "position in the partition"),
    "kafka_ts": ("TIMESTAMP", "instant at which the producer handed the record over, by its clock, UTC"),
    "ingested_at": ("TIMESTAMP", "instant of the micro-batch, UTC"),
}

SESSION_COLUMNS = {
    "user_id": ("STRING", "visitor"),
    "session_start_ts": ("TIMESTAMP", "first event, UTC"),
    "session_end_ts": ("TIMESTAMP", "last event, UTC"),
    "events": ("BIGINT", "events in the session"),
    "pages": ("BIGINT", "page views in the session"),
    "funnel_step": ("STRING", f"furthest of {', '.join(FUNNEL)}; NULL if it has none of them"),
    "is_converted": ("BOOLEAN", "the session holds a purchase"),
    "is_open": ("BOOLEAN", f"less than {GAP_MINUTES} minutes of event time have passed since its last event"),
}

TRAFFIC_COLUMNS = {
    "hour_ts": ("TIMESTAMP", "start of the hour, by event_ts, UTC"),
    "events": ("BIGINT", "all events"),
    "page_views": ("BIGINT", "events of type page_view"),
    "visitors": ("BIGINT", "distinct users; not additive over hours"),
    "sessions": ("BIGINT", "sessions that start in the hour"),
    "add_to_carts": ("BIGINT", "events of type add_to_cart"),
    "purchases": ("BIGINT", "events of type purchase"),
    "conversion": ("DECIMAL(9,4)", "share of these sessions that hold a purchase; NULL without sessions"),
}

LOG_COLUMNS = {
    "batch_id": ("BIGINT", "micro-batch of the stream to silver and gold; twice if it was killed and run again"),
    "finished_at": ("TIMESTAMP", "when its last row was visible in gold, UTC"),
    "seconds": ("DOUBLE", "how long it took"),
    "rows_read": ("BIGINT", "messages: accepted + quarantined + duplicate"),
    "rows_accepted": ("BIGINT", "events that this run of the batch added"),
    "rows_quarantined": ("BIGINT", "messages that broke a rule"),
    "rows_duplicate": ("BIGINT", "messages whose event was there already"),
    "latency_median": ("DOUBLE", "seconds from the producer's timestamp to the row in gold: half took no longer"),
    "latency_p99": ("DOUBLE", "99 of 100 took no longer"),
    "latency_max": ("DOUBLE", "none took longer"),
}

GAP_COLUMNS = {
    "topic": ("STRING", "Kafka topic"),
    "partition": ("INT", "Kafka partition"),
    "from_offset": ("BIGINT", "first offset that was never read"),
    "to_offset": ("BIGINT", "first offset after the gap"),
}

RULES = (
    Rule(name="message_is_json", severity="quarantine", expectation="_malformed IS NULL", limit="a JSON object"),
    identifies("event_id", "quarantine"),
    identifies("user_id", "quarantine"),
    Rule(
        name="event_type_is_known",
        severity="quarantine",
        expectation=f"event_type IN {EVENT_TYPES}",
        limit=", ".join(EVENT_TYPES),
    ),
    Rule(name="event_ts_is_a_timestamp", severity="quarantine", expectation="event_ts IS NOT NULL", limit="an instant"),
    Rule(
        name="event_ts_is_not_before_the_shop",
        severity="quarantine",
        expectation="event_ts >= TIMESTAMP '2025-01-01 00:00:00'",
        limit="at least 2025-01-01, when the shop opened",
    ),
    # Clocks of phones and servers differ by minutes, not by more.
    Rule(
        name="event_ts_is_not_in_the_future",
        severity="quarantine",
        expectation="event_ts <= kafka_ts + INTERVAL 5 MINUTES",
        limit="at most five minutes after kafka_ts",
    ),
)
"""Asked of every message, in this order; one that breaks a rule is set aside whole."""
