// A camera that turns about what it looks at. Poses are camera to world, 12 numbers by rows, OpenGL's axes; z is up.

const STEEPEST = 0.995; // sine of the elevation beyond which up would turn over
const FORWARD_LIMIT = Math.cos(0.6); // of scenes that are seen from the front only

function turned(axis, angle, v) {
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const along = (1 - c) * (axis[0] * v[0] + axis[1] * v[1] + axis[2] * v[2]);
  return [
    c * v[0] + along * axis[0] + s * (axis[1] * v[2] - axis[2] * v[1]),
    c * v[1] + along * axis[1] + s * (axis[2] * v[0] - axis[0] * v[2]),
    c * v[2] + along * axis[2] + s * (axis[0] * v[1] - axis[1] * v[0]),
  ];
}

// eslint-disable-next-line no-unused-vars -- the page joins its scripts
class OrbitCamera {
  // pose: to begin with. target: what it turns about. forward: whether it has to keep looking ahead.
  constructor(pose, target, forward) {
    this.home = { pose: [...pose], target: [...target] };
    this.forward = forward;
    this.reset();
  }

  reset() {
    this.pose = [...this.home.pose];
    this.target = [...this.home.target];
  }

  column(i) {
    return [this.pose[i], this.pose[4 + i], this.pose[8 + i]];
  }

  setColumn(i, v) {
    [this.pose[i], this.pose[4 + i], this.pose[8 + i]] = v;
  }

  get distance() {
    return Math.hypot(...this.column(3).map((x, i) => x - this.target[i]));
  }

  turn(axis, angle) {
    const before = [...this.pose];
    for (let i = 0; i < 3; i++) this.setColumn(i, turned(axis, angle, this.column(i)));
    const away = this.column(3).map((x, i) => x - this.target[i]);
    this.setColumn(3, turned(axis, angle, away).map((x, i) => x + this.target[i]));
    const back = this.column(2);
    const home = [2, 6, 10].map((i) => this.home.pose[i]);
    const ahead = back[0] * home[0] + back[1] * home[1] + back[2] * home[2];
    const tooFar = this.forward ? ahead < FORWARD_LIMIT : Math.abs(back[2]) > STEEPEST && Math.abs(back[2]) > Math.abs(before[10]);
    if (tooFar) this.pose = before;
  }

  // Angles in radians.
  orbit(sideways, upwards) {
    this.turn(this.forward ? this.column(1) : [0, 0, 1], sideways);
    this.turn(this.column(0), upwards);
  }

  // Shares of the distance.
  pan(right, up) {
    const [x, y] = [this.column(0), this.column(1)];
    const move = x.map((_, i) => this.distance * (right * x[i] + up * y[i]));
    this.setColumn(3, this.column(3).map((value, i) => value + move[i]));
    this.target = this.target.map((value, i) => value + move[i]);
  }

  zoom(factor) {
    this.setColumn(3, this.column(3).map((x, i) => this.target[i] + factor * (x - this.target[i])));
  }
}
