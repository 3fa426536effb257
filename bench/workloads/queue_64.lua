-- SPDX-License-Identifier: MIT
-- One producer and one consumer through a queue of 64.

return dofile "bench/harness/queue.lua"(64, 10)
