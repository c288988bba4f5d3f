-- Writes a row of Postbell's own, and leaves it as it was: whether the server takes writes.
-- Called by src/store/blame.rs. Uses looked's one key.
update postbell.looked set at = at where only_row
