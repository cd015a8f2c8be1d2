//! The state of a room as Synapse holds it: state groups, each the difference from another one.

use tokio_postgres::{Error, Transaction, types::Type};

/// The ids of all state events of a state group.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_group(
    transaction: &Transaction<'_>,
    state_group: i64,
) -> Result<Vec<String>, Error> {
    // A group that is nearer has the later event for a type and state key, and a higher number.
    let sql = "with recursive chain(state_group) as (values ($1::bigint) \
           union all select e.prev_state_group from state_group_edges e \
             join chain c on e.state_group = c.state_group) \
         select distinct on (s.type, s.state_key) s.type, s.state_key, s.event_id \
         from state_groups_state s where s.state_group in (select state_group from chain) \
         order by s.type, s.state_key, s.state_group desc";
    let rows = transaction.query_typed(sql, &[(&state_group, Type::INT8)]).await?;
    rows.iter().map(|row| row.try_get(2)).collect()
}
