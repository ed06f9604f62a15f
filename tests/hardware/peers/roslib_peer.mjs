// roslib (npm) against a rosbridge server: node roslib_peer.mjs FOLDER_WITH_NODE_MODULES URL
// Prints one JSON line for everything that happens; ends when its input does.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, url] = process.argv.slice(2);
const main = join(folder, "node_modules", "roslib", "dist", "RosLib.js");
const { Action, Ros, Service, Topic } = await import(pathToFileURL(main));

const kind = (value) => value?.constructor?.name;
const say = (what) =>
  console.log(JSON.stringify(what, (_, v) => (ArrayBuffer.isView(v) ? Array.from(v) : v)));

const ros = new Ros({ url });
ros.on("error", (error) => say({ event: "error", text: String(error) }));
ros.on("status:wrong", (status) => say({ event: "status", text: status.msg }));
await new Promise((resolve) => ros.on("connection", resolve));

// Topics from the server, in every form.
const JOINTS = "sensor_msgs/JointState";
for (const [name, compression] of [["none"], ["png"], ["cbor"], ["raw", "cbor-raw"]]) {
  new Topic({ ros, name: `/${name}`, messageType: JOINTS, compression: compression ?? name })
    .subscribe((msg) => say({ event: name, msg, position: kind(msg.position), raw: kind(msg.bytes) }));
}
const long = { op: "subscribe", topic: "/pieces", type: JOINTS, fragment_size: 100 };
ros.on("/pieces", ({ msg }) => say({ event: "pieces", msg }));
ros.callOnConnection(long);
ros.on("/pictures", ({ msg }) => say({ event: "pictures", msg }));
ros.callOnConnection({ ...long, topic: "/pictures", compression: "png" });

// Services and actions of the server.
const add = new Service({ ros, name: "/add", serviceType: "demo/Add" });
add.callService({ a: 2, b: 3 }, (values) => say({ event: "added", values }));
const missing = new Service({ ros, name: "/missing", serviceType: "demo/Add" });
missing.callService({}, () => say({ event: "wrong" }), (text) => say({ event: "refused", text }));
const count = new Action({ ros, name: "/count", actionType: "demo/Count" });
count.sendGoal(
  { to: 3 },
  (values) => say({ event: "counted", values }),
  (values) => say({ event: "counting", values }),
);
const endless = new Action({ ros, name: "/endless", actionType: "demo/Count" });
const goal = endless.sendGoal({}, () => say({ event: "wrong" }), () => endless.cancelGoal(goal),
  (text) => say({ event: "ended", text }));

// Services, actions and topics of our own.
new Service({ ros, name: "/double", serviceType: "demo/Double" }).advertise((request, response) => {
  response.value = 2 * request.value;
  return true;
});
new Service({ ros, name: "/broken", serviceType: "demo/Double" }).advertise(() => false);
const steps = new Action({ ros, name: "/steps", actionType: "demo/Steps" });
const timers = new Map();
steps.advertise(
  (request, id) => {
    steps.sendFeedback(id, { at: 1 });
    if (request.forever) timers.set(id, true);
    else steps.setSucceeded(id, { done: request.steps });
  },
  (id) => timers.delete(id) && steps.setCanceled(id, { done: 0 }),
);
const chatter = new Topic({ ros, name: "/chatter", messageType: "std_msgs/String" });
chatter.advertise();
ros.callOnConnection({ op: "advertise", id: "wrong", topic: "/wrong_type", type: "std_msgs/String" });

say({ event: "ready" });
const spoken = setInterval(() => chatter.publish({ data: "hello" }), 20);
process.stdin.resume().on("end", () => {
  clearInterval(spoken);
  ros.close();
});
