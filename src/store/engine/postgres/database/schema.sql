-- What `backscroll prepare` makes. Every statement may run again.
create table if not exists room (
    room uuid primary key,
    stamp bigint not null,
    life bigint not null,
    made bigint not null,
    name text collate "C" not null,
    gone boolean not null,
    value bytea
) with (fillfactor = 70);
create table if not exists event_id (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists page (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists body (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists block (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists state (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists given (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists note (room uuid, key bytea, value bytea not null, primary key (room, key));
create table if not exists store_word (key bytea primary key, value bytea not null);
create index if not exists room_by_name on room (name);
-- Notes that are listed over all rooms: missing, waiting, unsettled, deleted, derived again, content.
create index if not exists note_by_kind on note (get_byte(key, 0), room, key)
    where get_byte(key, 0) in (6, 7, 13, 16, 23, 26);
alter table room alter column value set storage external;
alter table event_id alter column value set storage external;
alter table page alter column value set storage external;
alter table body alter column value set storage external;
alter table block alter column value set storage external;
alter table state alter column value set storage external;
alter table given alter column value set storage external;
alter table note alter column value set storage external;
alter table store_word alter column value set storage external;
