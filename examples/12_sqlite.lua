-- SPDX-License-Identifier: MIT
-- A real SQLite database through LuaSQL: connection and cursor stay on the thread where they were
-- made, behind handles; every call suspends the task, and the loop keeps ticking.

local concur = require "concur"

concur.run(function()
  local luasql = concur.module "luasql.sqlite3"
  local environment <close> = luasql.sqlite3()
  local connection <close> = environment:connect ":memory:"

  assert(connection:execute "CREATE TABLE stars (name TEXT, magnitude REAL)")
  for _, row in ipairs { { "Sirius", -1.46 }, { "Canopus", -0.74 }, { "Vega", 0.03 } } do
    assert(connection:execute(("INSERT INTO stars VALUES ('%s', %f)"):format(row[1], row[2])))
  end

  local cursor = connection:execute "SELECT name FROM stars ORDER BY magnitude"
  local names = {}
  for i = 1, 3 do
    names[i] = cursor:fetch()
  end
  cursor:close()
  print(table.concat(names, ", "))
  assert(table.concat(names, ",") == "Sirius,Canopus,Vega")

  -- A query that takes its time.
  local ticks = 0
  local ticker = concur.spawn(function()
    while true do
      concur.sleep(0.005)
      ticks = ticks + 1
    end
  end)
  local slow = connection:execute [[
    WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 500000)
    SELECT sum(n) FROM counter]]
  local sum = slow:fetch()
  slow:close()
  ticker:cancel()
  print("the sum is " .. math.tointeger(tonumber(sum)))
  assert(tonumber(sum) == 500000 * 500001 // 2)
  print("the loop ticked meanwhile: " .. (ticks >= 3 and "yes" or "no"))
  assert(ticks >= 3, ticks)
end)
