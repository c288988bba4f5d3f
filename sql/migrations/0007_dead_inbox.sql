-- Agents may ask for the dead letters of their own inbox: by this order that costs what they have, not what all others
-- have too. In place of the old index, since each index is paid for by every insert.
drop index postbell.deliveries_dead;
create index deliveries_dead on postbell.deliveries (inbox, delivery_id) where state = 'dead';
