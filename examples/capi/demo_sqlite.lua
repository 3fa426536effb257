-- SPDX-License-Identifier: MIT
-- csqlite.c: many queries in flight while the loop ticks, and one that is cancelled.

local concur = require "concur"
local csqlite = require "csqlite"

local COUNT = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) "
  .. "SELECT sum(n) AS total FROM c"

concur.run(function()
  local db <close> = assert(csqlite.open ":memory:")
  assert(db:exec "CREATE TABLE stars (name TEXT, magnitude REAL)")
  for _, star in ipairs { { "Sirius", -1.46 }, { "Canopus", -0.74 }, { "Vega", 0.03 } } do
    assert(db:query("INSERT INTO stars VALUES (?, ?)", star[1], star[2]))
  end
  for _, row in ipairs(assert(db:query "SELECT * FROM stars ORDER BY magnitude")) do
    print(row.name, row.magnitude)
  end
  print(db:query "SELECT * FROM planets")

  -- Three connections, a hundred queries, and a loop that goes on.
  local ticks = 0
  local ticker = concur.spawn(function()
    while true do
      concur.sleep(0.001)
      ticks = ticks + 1
    end
  end)
  local others = { assert(csqlite.open ":memory:"), assert(csqlite.open ":memory:"), db }
  local queries = {}
  for i = 1, 100 do
    queries[i] = function()
      return assert(others[i % 3 + 1]:query(COUNT, 1000 + i))[1].total
    end
  end
  local totals = concur.gather(queries)
  print(totals[100] == 1100 * 1101 // 2)

  -- This one would take minutes. The time-out interrupts it inside SQLite.
  print(concur.move_on_after(0.05, db.query, db, COUNT, 1000000000))
  print(assert(db:query "SELECT 1 AS one")[1].one)
  ticker:cancel()
  print(ticks > 5)
  others[1]:close()
  others[2]:close()
end)
