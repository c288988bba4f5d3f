-- Several brokers on one database: how one proves to another who it is, and how it asks for an inbox.

-- SHA-256 of the credential that this broker made at its start and shows to the others when it links to them. NULL: a
-- broker of an older version, which nobody links to and which links to nobody.
alter table postbell.brokers add column token_hash bytea check (octet_length(token_hash) = 32);
-- The SHA-256 of its certificate where its agents' port speaks TLS: what the others pin when they link to it. NULL: it
-- speaks plainly.
alter table postbell.brokers add column certificate_sha256 text;

-- Another broker has a session for this inbox and cannot reach the owner by the network: the owner, if it has no session
-- of its own, gives the inbox back. Past times mean nothing.
alter table postbell.leases add column wanted_until timestamptz;
create index leases_wanted on postbell.leases (broker_id) where wanted_until is not null;
