-- SPDX-License-Identifier: MIT
-- One producer and one consumer through a queue of 1.

return dofile "bench/harness/queue.lua"(1, 50)
