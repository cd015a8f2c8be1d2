-- The tables of Synapse that the follower reads: names and types of their columns only, as in schema 94.
create table events (
  event_id text not null unique, room_id text not null, stream_ordering bigint, outlier boolean not null,
  rejection_reason text, instance_name text, sender text
);
create unique index on events (stream_ordering);
create index on events (room_id, stream_ordering);
create table event_json (
  event_id text not null unique, room_id text not null, internal_metadata text not null, json text not null
);
create table event_edges (event_id text not null, prev_event_id text not null, is_state boolean not null default false);
create unique index on event_edges (event_id, prev_event_id);
create table rejections (event_id text not null unique, reason text not null);
create table rooms (room_id text primary key, room_version text);
create table event_to_state_groups (event_id text not null unique, state_group bigint not null);
create table state_groups_state (
  state_group bigint not null, type text not null, state_key text not null, event_id text not null
);
create index on state_groups_state (state_group);
create table state_group_edges (state_group bigint not null, prev_state_group bigint not null);
create table erased_users (user_id text not null);
create table blocked_rooms (room_id text not null);
create table partial_state_rooms (room_id text primary key);
create table room_ban_redactions (
  room_id text not null, user_id text not null, redacting_event_id text not null, redact_end_ordering bigint
);
create table stream_positions (stream_name text not null, instance_name text not null, stream_id bigint not null);
create unique index on stream_positions (stream_name, instance_name);
create table ex_outlier_stream (
  event_stream_ordering bigint primary key, event_id text not null, state_group bigint not null, instance_name text
);
create table un_partial_stated_event_stream (
  stream_id bigint primary key, instance_name text not null, event_id text not null,
  rejection_status_changed boolean not null
);
create table cache_invalidation_stream_by_instance (
  stream_id bigint not null, instance_name text not null, cache_func text not null, keys text[], invalidation_ts bigint
);
create unique index on cache_invalidation_stream_by_instance (stream_id);
create sequence cache_ids;
create table server_keys_json (
  server_name text not null, key_id text not null, from_server text not null, ts_added_ms bigint not null,
  ts_valid_until_ms bigint not null, key_json bytea not null
);
create table schema_version (version integer not null);
create table schema_compat_version (compat_version integer not null);
create table background_updates (update_name text not null);
insert into schema_version values (94);
insert into schema_compat_version values (84);
