-- A broker says in its own row which of its duties stand still, so that `postbell doctor` can tell, wherever it runs.

alter table postbell.brokers
  -- Sentences; NULL while every part of the broker gets on.
  add column standstill text;
