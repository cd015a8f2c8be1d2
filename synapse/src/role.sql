-- The role of the follower: it may read these tables of Synapse, and nothing else.
-- Run it as the owner of Synapse's database, with a password of your own:
--   psql -d synapse -v password=SECRET -f role.sql
-- If Synapse keeps its state groups in another database, run it there too.
create role backscroll_follower login password :'password';
alter role backscroll_follower set default_transaction_read_only = on;
alter role backscroll_follower set statement_timeout = '60s';
alter role backscroll_follower set idle_in_transaction_session_timeout = '60s';
grant usage on schema public to backscroll_follower;
do $$
declare
  name text;
begin
  foreach name in array array[
    'events', 'event_json', 'event_edges', 'rejections', 'rooms', 'event_to_state_groups',
    'erased_users', 'blocked_rooms', 'partial_state_rooms', 'room_ban_redactions',
    'stream_positions', 'ex_outlier_stream', 'un_partial_stated_event_stream',
    'cache_invalidation_stream_by_instance', 'schema_version', 'schema_compat_version',
    'background_updates', 'state_groups_state', 'state_group_edges', 'server_keys_json'
  ] loop
    -- Not every version of Synapse has all of them.
    if to_regclass(name) is not null then
      execute format('grant select on %I to backscroll_follower', name);
    end if;
  end loop;
end
$$;
