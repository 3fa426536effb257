-- SPDX-License-Identifier: MIT
-- How cost grows: one operation of each kind while there are few, many and very many of what it works
-- on. Everything is concur's alone and counts the processor's time of this process.
--
--     make bench-sweep                              every curve; a minute or two
--     lua5.4 bench/sweep.lua [--quick] [CURVE...]   from the root, with concur on the path
--
-- Writes sweep.json, sweep.svg and sweep.md into the build directory.

package.path = "bench/?.lua;" .. package.path

local curves = require "harness.curves"
local json = require "harness.json"
local peers = require "harness.peers"
local system = require "harness.system"

local build = os.getenv "CONCUR_BUILD" or "build"
peers.find(build) -- compiles what the next line needs
package.cpath = build .. "/bench/?.so;" .. package.cpath
local sweeps = require "harness.sweeps"

local quick, chosen = false, {}
for _, word in ipairs(arg) do
  if word == "--quick" then
    quick = true
  elseif not sweeps.by_name[word] then
    io.stderr:write(("sweep: there is no curve '%s'\n"):format(word))
    os.exit(2)
  else
    chosen[#chosen + 1] = word
  end
end

-- Each point in a process of its own: a heap that a million tasks have used is not that of ten.
local function measure(name, size)
  local command = ("timeout 120 %s%s bench/harness/sweep_child.lua %s %d"):format(
    peers.environment(), peers.lua, name, size)
  local pipe <close> = io.popen(command .. " 2>&1")
  local output = pipe:read "a"
  local points = {}
  for label, value in output:gmatch "([^\t\n]+)\t([%d.e+-]+)\n" do
    points[#points + 1] = { label = label, value = tonumber(value) }
  end
  if not pipe:close() or #points == 0 then
    io.stderr:write(("sweep: %s %d failed:\n%s"):format(name, size, output))
    os.exit(1)
  end
  return points
end

local results = {}
for _, name in ipairs(#chosen > 0 and chosen or sweeps.order) do
  local sweep = sweeps.by_name[name]
  local sizes = quick and { sweep.sizes[1], sweep.sizes[2] } or sweep.sizes
  print(("\n%s, %s"):format(sweep.title, sweep.unit))
  local lines = {}
  for _, size in ipairs(sizes) do
    for i, point in ipairs(measure(name, size)) do
      lines[i] = lines[i] or { label = point.label, points = {} }
      table.insert(lines[i].points, { size = size, value = point.value })
      print(("  %-34s %9d  %10.1f"):format(point.label, size, point.value))
    end
  end
  results[#results + 1] = { name = name, title = sweep.title, unit = sweep.unit, over = sweep.over,
    lines = lines }
end

print()
system.write_file(build .. "/sweep.json", json.encode { curves = results } .. "\n")
system.write_file(build .. "/sweep.svg", curves.draw(results))
system.write_file(build .. "/sweep.md", curves.markdown(results))
