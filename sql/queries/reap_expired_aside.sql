-- Ends the deliveries of an expired message whose row cannot be written, and sets its status aside. The row is not read.
-- Called by src/store/reap.rs. Uses deliveries_message.
-- $1 message uuid
-- $2 reason text
with removed as (
  delete from postbell.deliveries d where d.message_id = $1::uuid and d.state <> 'dead' returning d.inbox
)
select postbell.put_aside($1::uuid, null, coalesce((select min(inbox) from removed), '*'), 'expired', 'failed',
                          'expired before it was delivered', $2::text, interval '30 seconds')
